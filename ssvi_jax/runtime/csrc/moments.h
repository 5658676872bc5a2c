// Means and variances of activations, propagated in one pass.
//
// Weights are independent Gaussians, and so are taken to be the activations that a
// product or a sum reads. What is computed elementwise of one array keeps its
// dependence: it is followed at the nodes of a Gauss–Hermite quadrature.
#pragma once

#include <map>
#include <vector>

#include "runner.h"

namespace ssvi {

struct Gaussian {
  Tensor mean, variance;  // of one shape; without a variance it is no random number
  bool is_random() const { return variance.data != nullptr; }
};

// Row-major values of one draw of independent Gaussians.
std::vector<float> logits_drawn(const Gaussian& logits, int64_t draw);

class MomentPass {
 public:
  explicit MomentPass(Runner& runner) : runner_(runner) {}
  // As Runner::run, whose weights must be the means.
  Gaussian run(const Machine& machine, const float* x, int64_t n);

 private:
  Runner& runner_;
};

}  // namespace ssvi
