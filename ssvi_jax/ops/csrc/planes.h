// Products whose vectors run over the pixels of one image. The input of a weight lies
// at the same distance from every output, so a single image fills the vectors as a
// batch does.
#pragma once

#include <cstdint>
#include <vector>

#include "machine.h"
#include "plan.h"

namespace ssvi {

// Geometry of a convolution of an image x [ci][h][w] to y [co][p][q].
//
// Inputs are packed into planes with zeros around them, one for each residue of rows
// modulo the stride. Wide images have one for each residue of columns too. Narrow ones
// are flat: they have a plane of their own for each kernel column, as wide as the
// output, and all outputs are one long row, which fills vectors where a row of pixels
// would not.
struct Planes {
  Shape shape;  // whose n is not used
  bool is_flat;
  int64_t rows, columns;  // of outputs, as the kernels see them
  int64_t height, width;  // of a packed plane
  int64_t row_phases, column_copies;

  int64_t channel;  // floats from a packed channel to the next

  int64_t plane() const { return height * width; }
};

Planes planes_of(const Shape& shape);

// Floats that a packed image takes at most; kept below 2^31 by whoever calls.
double packed_floats(const Planes& planes);

// The weights by output channel, then in the order of the index: weight k of the index
// is number rank[k].
struct PlaneOrder {
  std::vector<int32_t> begin, rank;
};

// Throws BadIndex on an index outside a kernel of `all` weights, `co` output channels.
PlaneOrder order_planes(int64_t all, int64_t co, const int32_t* index, int64_t size);

// Where the input of each weight lies, in their order.
std::vector<int32_t> list_planes(const Planes& planes, const int32_t* index,
                                 const PlaneOrder& order);

// How an image is packed; empty: as it is.
std::vector<PlaneMove> moves_of(const Planes& planes);

// Weights in their order.
struct PlaneWeights {
  const int32_t *begin, *offset;
  const float* values;
};

// What is done to an output while it is at hand.
struct PlaneEpilogue {
  const float* scale = nullptr;     // of each channel, or null
  const float* bias = nullptr;      // likewise
  const float* residual = nullptr;  // of the outputs' shape, or null
  bool relu = false;
};

// y = conv(x, M) · scale + bias + residual of n images, negative values replaced by 0
// with `relu`.
void mean_of_planes(const Machine& machine, const Planes& planes,
                    const std::vector<PlaneMove>& moves, const PlaneWeights& weights,
                    int64_t n, const float* x, const PlaneEpilogue& epilogue, float* y);

}  // namespace ssvi
