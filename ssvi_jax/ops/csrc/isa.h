// The kernels of one instruction set, as the driver sees them.
#pragma once

#include <cstdint>

#include "plan.h"

namespace ssvi {

enum class Pass { kSample, kMean, kMeanGradient, kSampleGradient };

// The gradient of what a batch norm read, from g, that of its result: where
// y · factor + shift > 0 it is g · factor, elsewhere 0, and everywhere y · slope + level
// on top. The four numbers of each channel lie one after the other in `line`.
struct NormGradient {
  const float* y;     // of g's shape; null: there is no batch norm
  const float* line;  // [4][channels]: factor, shift, slope, level
};

// Operands of a gather; which are used depends on the pass.
struct Gather {
  const Plan* plan;
  const Entry* entries;
  const int32_t* begin;
  Pass pass;
  const float* input;     // x, or g
  const float* slope;     // kSampleGradient: multiplied with g
  NormGradient norm;      // kSampleGradient: g comes through it
  const float* x;         // kSampleGradient
  const float* bias;      // kMean, may be null
  const float* residual;  // kMean: added to the output, may be null
  bool relu;              // kMean: negative outputs become 0
  const uint32_t* key;    // kSample: four numbers, see passes.h
  float* output;          // y, or dx
  float* slope_output;    // kSample
  float* moments;         // kSample: Σy and Σy² [block][row][channel][2]
  bool streamed;          // outputs are too large for the cache: write around it
};

// A share of a gather: blocks of images and columns (block i is image block
// i / column_blocks), rows u, output channels.
struct GatherTask {
  int64_t block_low, block_high;
  int u_low, u_high;
  int64_t channel_low, channel_high;
  float* sums;  // gradients: where those of the weights go too, or null; see WeightsTask
};

// Operands of the gradient of the weights.
struct Weights {
  const Plan* plan;
  const Entry* entries;
  const int32_t* begin;
  const float* input;  // x
  const float* g;
  const float* slope;  // null: the gradient of the mean only
  NormGradient norm;   // with a slope: g comes through it
};

// A share, likewise; its sums go to `sums`, two a non-zero, or one without a slope.
struct WeightsTask {
  int64_t block_low, block_high;
  int u_low, u_high;
  int64_t channel_low, channel_high;
  float* sums;
};

// Operands of the sums of a channel of [pixels][channels][n]; see passes.h.
struct Moments {
  int64_t channels, n;
  const float *a, *b;
  const float* center;           // c of each channel; null: 0
  const float *factor, *shift;   // null: every a counts
};

// Operands of the gradient of all weights, and how its positions are cut: blocks of
// vectors of images, rows and columns of outputs.
struct DenseGradient {
  Shape shape;
  const float *x, *g;
  float* sums;  // [kernel row][kernel column][in][out]
  int vectors, rows, columns;
  int64_t x_floats, g_floats;  // of a packed block; a number an output follows
};

// A share: some kernel rows, input and output channels.
struct DenseTask {
  int64_t tap_low, tap_high, in_low, in_high, out_low, out_high;
};

// Sixteen neighbours of a packed row, alike in every channel: number j is
// x[from + j · stride] if bit j · spread is set, else 0; spread is the stride up to 2, then 1.
struct PlaneMove {
  int32_t from, to;
  uint32_t lanes;
};

// Channels [low, high) of one image, packed; see planes.h. Moves are in the order of
// `to`: each may write up to the sixteenth number, where the next one begins.
struct PlanePack {
  const PlaneMove *moves, *end;
  int64_t stride;
  const float* x;
  float* out;
  int64_t x_channel, out_channel;  // floats
};

// The product of one packed image; see planes.h. The weights of an output channel lie
// side by side: where their inputs are, and what they are.
struct PlaneProduct {
  const int32_t *begin, *offset;
  const float *value, *input;
  int64_t width;          // of a row of the input
  int64_t rows, columns;  // of outputs
  const float* scale;     // may be null
  const float* bias;      // likewise
  const float* residual;  // likewise
  bool relu;
  float* output;
};

struct PlaneTask {
  int64_t row_low, row_high, channel_low, channel_high;
};

struct Isa {
  const char* name;
  int lanes;
  // Vectors of outputs at once, and with both gradients of two sources.
  int tile, both_tile;
  int tile_in, tile_out;  // channels at once in the gradient of all weights
  void (*gather)(const Gather&, const GatherTask&, float* scratch);
  void (*weights)(const Weights&, const WeightsTask&, float* scratch);
  void (*add_sums)(const Moments&, int64_t first, int64_t pixels, double* sums,
                   float* scratch);
  void (*dense_gradient)(const DenseGradient&, const DenseTask&, float* scratch);
  void (*pack_planes)(const PlanePack&, int64_t low, int64_t high);
  void (*planes)(const PlaneProduct&, const PlaneTask&);
  double (*multiply_adds)(int64_t rounds);  // runs that many rounds of `lanes` × 12
};

// Floats of scratch that one task needs.
int64_t gather_scratch(const Plan& plan);
int64_t weights_scratch(const Plan& plan, bool sampled);

extern const Isa kGeneric;
#if defined(__x86_64__)
extern const Isa kAvx2, kAvx512;
#endif

}  // namespace ssvi
