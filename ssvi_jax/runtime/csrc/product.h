// A convolution or a dense layer with a kernel of which few weights are not zero, by
// the kernels that training and prediction under JAX use too.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "graph.h"
#include "planes.h"
#include "tensor.h"

namespace ssvi {

// How a kernel slides, as a node says it.
struct Window {
  int64_t kh, kw, ci, co, sh, sw, top, bottom, left, right, dh, dw, groups;
  bool scaled, shifted, added, rectified;

  // As one with all channels in one group and taps side by side: zeros cost nothing.
  int64_t rows() const { return (kh - 1) * dh + 1; }
  int64_t columns() const { return (kw - 1) * dw + 1; }
  int64_t inputs() const { return ci * groups; }
};

// Throws an Error on numbers that are no window.
Window window_of(const Node& node);

// A vector of one number for each channel, or an Error.
const float* channels(const Tensor& x, int64_t size);

// Where the weights of a product lie. Several threads may multiply by it.
class SparseKernel {
 public:
  // Flat positions in a kernel [kh][kw][ci][co].
  SparseKernel(const Window& window, std::vector<int32_t> index);

  // Values, one of each position, in the order in which a product visits them.
  std::vector<float> arranged(const float* values) const;
  const PlaneOrder& order() const { return order_; }
  // Where it reads images of this size.
  struct List {
    std::vector<PlaneMove> moves;
    std::vector<int32_t> offset;
  };
  std::shared_ptr<const List> list(const Planes& planes) const;

 private:
  std::vector<int32_t> index_;  // of a kernel of one group
  PlaneOrder order_;
  mutable std::map<std::pair<int64_t, int64_t>, std::shared_ptr<const List>> lists_;
  mutable std::mutex mutex_;
};

struct Operands {
  const SparseKernel* kernel;
  const float* values;     // arranged
  const float* scale;      // of each output channel, or null
  const float* shift;      // likewise
  const Tensor* residual;  // of the output's shape, or null
  bool rectified;
};

// relu(scale · conv(x, values) + shift + residual) of x [n, h, w, in].
Tensor product(const Machine& machine, const Window& window, const Tensor& x,
               const Operands& operands);

}  // namespace ssvi
