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
  class Passes;
  const Pool& pool(int threads);
  void check_inputs(const float* x, int64_t n) const;
  void add_mean(Passes& passes, Totals& totals);
  void add_draws(Passes& passes, int64_t draws, uint64_t seed, Totals& totals);
  void add_moments(Passes& passes, int64_t draws, Totals& totals);

  File file_;
  Runner runner_;
  bool is_random_;
  int64_t inputs_;
  int64_t together_ = 0;  // inputs whose activations stay in a cache; 0: not yet known
  struct Draw {
    Values values;
    bool is_made = false;
  };
  std::vector<Draw> draws_;  // the first ones of the seed, for its next call
  uint64_t seed_ = 0;
  std::unique_ptr<Workers> workers_;
  std::mutex mutex_;
};

}  // namespace ssvi
