// A convolution or a dense layer with a kernel of which few weights are not zero, by the
// kernels that training and prediction under JAX use too.
#pragma once

#include "graph.h"
#include "passes.h"
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

// Flat positions in a kernel [kh][kw][ci][co] as those in the kernel of one group.
std::vector<int32_t> widened(const Window& window, const std::vector<int32_t>& index);

// A vector of one number for each channel, or an Error.
const float* channels(const Tensor& x, int64_t size);

// The weights that a product visits, in the order of its visit.
struct Visits {
  int64_t n = -1, h = 0, w = 0;
  std::vector<Entry> entries;
  std::vector<int32_t> table;
};

struct Operands {
  const std::vector<int32_t>* index;  // widened
  const float* values;                // one each
  const float* scale;                 // of each output channel, or null
  const float* shift;                 // likewise
  const Tensor* residual;             // of the output's shape, or null
  bool rectified;
};

// relu(scale · conv(x, values) + shift + residual) of x [n, h, w, in]. What is in
// `visits` is used again for images of the same shape: empty it for other values.
Tensor product(const Machine& machine, const Window& window, const Tensor& x,
               const Operands& operands, Visits& visits);

}  // namespace ssvi
