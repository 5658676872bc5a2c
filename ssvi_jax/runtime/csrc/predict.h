// Class probabilities and their uncertainty, of passes over many inputs.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "file.h"
#include "runner.h"
#include "ssvi.h"
#include "workers.h"

namespace ssvi {

class Predictor {
 public:
  Predictor(const uint8_t* data, size_t size);

  void describe(ssvi_info& info) const;
  // See ssvi.h. Throws an Error.
  void predict(const float* x, int64_t n, const ssvi_options& options,
               float* probabilities, float* entropy, float* mutual_information);

 private:
  class Totals;
  const Pool& pool(int threads);
  void pass(const Machine& machine, const float* x, int64_t n, Totals& totals);

  File file_;
  Runner runner_;
  bool is_random_;
  int64_t inputs_;
  std::unique_ptr<Workers> workers_;
  std::mutex mutex_;
};

}  // namespace ssvi
