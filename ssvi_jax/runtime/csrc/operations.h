// What the nodes of a graph do, but for products.
#pragma once

#include "graph.h"
#include "tensor.h"

namespace ssvi {

// Elementwise operations on operands that broadcast.
bool is_unary(Operation operation);
bool is_binary(Operation operation);
Tensor unary(Operation operation, const Tensor& x, const Pool& pool);
Tensor binary(Operation operation, const Tensor& a, const Tensor& b, const Pool& pool);
Tensor select(const Tensor& which, const Tensor& no, const Tensor& yes, const Pool& pool);
// One value of a unary operation, for who integrates over it.
float apply(Operation operation, float x);

// Over axes, which are gone afterwards. Sums are made in double precision.
Tensor reduce(Operation operation, const Tensor& x, const Lengths& axes,
              const Pool& pool);
// size, step, low, high, dilation of each axis.
Tensor reduce_window(Operation operation, const Tensor& x, const Lengths& numbers,
                     const Pool& pool);

// low, high, between of each axis; negative edges cut off.
Tensor pad(const Tensor& x, float value, const Lengths& edges, const Pool& pool);
Tensor concatenate(const std::vector<Tensor>& parts, int64_t axis, const Pool& pool);
// [g, m, k] times [g, k, n].
Tensor matmul(const Tensor& a, const Tensor& b, const Pool& pool);

}  // namespace ssvi
