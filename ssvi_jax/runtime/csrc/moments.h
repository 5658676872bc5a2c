// Means and variances of activations, propagated in one pass.
//
// Weights are independent Gaussians. So are taken to be the channels that a product
// made, while its positions, which share the weights, are taken to move together. What
// is computed of one array keeps its dependence: it is followed at the nodes of a
// quadrature over that array, its source. What a product reads is taken to be
// independent.
#pragma once

#include <map>
#include <vector>

#include "gaussian.h"
#include "runner.h"

namespace ssvi {

// Row-major logits [n, classes] of one draw, whose noise is the same for every row.
std::vector<float> logits_drawn(const Gaussian& logits, int64_t draw);

class MomentPass {
 public:
  explicit MomentPass(const Runner& runner) : runner_(runner) {}
  // As Runner::run.
  Gaussian run(const Machine& machine, const float* x, int64_t n);

 private:
  struct Value {
    Gaussian moments;
    int32_t source = -1;         // the node that its points are of
    std::vector<Tensor> points;  // at every node of the quadrature, or empty
    bool is_random() const { return moments.is_random() || !points.empty(); }
  };
  using Values = std::vector<const Value*>;

  Value compute(const Machine& machine, int32_t node, const Values& in, const float* x,
                int64_t n);
  Value elementwise(const Machine& machine, int32_t node, const Values& in);
  Gaussian of_independent(int32_t node, const std::vector<Gaussian>& in,
                          const Pool& pool);
  Gaussian multiply(const Machine& machine, int32_t node,
                    const std::vector<Gaussian>& in);
  Value rearranged(const Machine& machine, int32_t node, const Values& in, int64_t n);
  Value pooled(const Machine& machine, int32_t node, const Value& in, int64_t n);
  std::vector<Tensor> points_of(const Value& value, const Pool& pool);

  const Runner& runner_;
  // Of a product: its weights' second moments and variances, arranged; the latter are
  // empty where its weights are known.
  struct Spread {
    std::vector<float> squares, variances;
  };
  std::map<int32_t, Spread> spreads_;
  const Spread& spread(int32_t node, const Runner::Multiplier& by);
};

}  // namespace ssvi
