// What a pass visits: geometry, packed rows, and the non-zeros in the order of visit.
#pragma once

#include <cstdint>
#include <vector>

#include "parallel.h"

namespace ssvi {

// A convolution of x [h][w][ci][n] with a kernel [kh][kw][ci][co] to y [p][q][co][n].
struct Shape {
  int64_t n, ci, h, w, co, p, q, kh, kw, sh, sw, top, left;
};

// One non-zero: where its input lies in the packed rows, relative to the output.
struct Entry {
  int32_t offset;  // in floats
  float mean, variance;
};

// Output rows or columns of one residue class: index u in [low, high) is output
// u * step + first.
struct Range {
  int low, high, step, first;
};

// A gather: every output is a weighted sum of packed inputs at fixed offsets.
//
// Both the forward pass and the gradient of the input have this form. With stride s the
// latter falls into s classes of input rows (columns), each a gather with stride 1 and
// taps of its own; the forward pass has one class. Columns are packed by their residue
// modulo the stride, so neighbouring outputs read neighbouring vectors in every pass.
struct Plan {
  int64_t n;                           // images
  int64_t in_channels, in_h, in_w;     // what is packed
  int64_t out_channels, out_h, out_w;  // what is made
  std::vector<Range> rows, cols;       // the classes
  std::vector<int> row_class, col_class, row_tap;  // of each kernel row or column
  std::vector<int> tap_phase, tap_index;           // of each kernel column
  int u_low, u_high, v_low;            // over all classes
  // Packed row l of a block that starts at u0 is input row
  // (u0 + l / row_step) * in_step + l % row_step + in_first.
  int row_step, row_taps, in_step, in_first;
  // Packed column (phase, i) of a block that starts at v0 is input column
  // (v0 + i) * col_step + phase + col_first; i < columns + reach.
  int phases, reach, col_step, col_first;
  int width;                           // columns v, over all classes

  // How it is cut, in vectors of `lanes` images.
  int lanes, sources, sums;            // arrays that are packed, and sums an output
  int images;                          // vectors of images a task
  int columns;                         // values of v a task
  int block;                           // values of u at a time
  int64_t channel_block;               // input channels packed at once: a turn
  int64_t row_stride, channel_stride;  // in floats

  // The vectors again, for code that may not call the standard library (see simd.h).
  const Range *rows_data, *cols_data;
  int row_classes, col_classes;

  __attribute__((always_inline)) int packed_rows(int count) const {
    return (count - 1) * row_step + row_taps;
  }
  __attribute__((always_inline)) int64_t image_blocks() const {
    return (n + lanes * images - 1) / (lanes * images);
  }
  __attribute__((always_inline)) int64_t column_blocks() const {
    return (width + columns - 1) / columns;
  }
  __attribute__((always_inline)) int64_t turns() const {
    return (in_channels + channel_block - 1) / channel_block;
  }
  // Groups of non-zeros of one turn, and of all.
  __attribute__((always_inline)) int64_t groups() const {
    return int64_t{row_classes} * col_classes * out_channels;
  }
  __attribute__((always_inline)) int64_t all_groups() const { return turns() * groups(); }
  // Floats of the sums of a row of outputs of one class and channel, and of all sums
  // that wait for the next turn: none if there is one turn.
  __attribute__((always_inline)) int64_t row() const {
    return int64_t{columns} * images * sums * lanes;
  }
  // Floats of the moments of a block of outputs.
  __attribute__((always_inline)) int64_t moments() const {
    return 2 * out_h * out_channels;
  }
  __attribute__((always_inline)) int64_t waiting() const {
    return turns() == 1 ? 0 : groups() * block * row();
  }
};

Plan forward_plan(const Shape& s);
Plan input_gradient_plan(const Shape& s);

// What the sums of a pass cost, fitted to measured times.
struct Work {
  double products;  // multiply-adds that hide the reading of a vector
  double entry;     // nanoseconds of a non-zero besides its products, in each tile
  double kept;      // nanoseconds of a vector of sums kept for the next turn
};

// What a plan is cut for.
struct Use {
  int lanes;
  int sources;       // arrays that are packed
  int sums;          // sums of an output
  int64_t size;      // non-zeros
  bool paired;       // 32 images share calls of the noise cipher
  bool weights;      // only the gradient of the weights: every turn reads g again
  int tile;          // else: the most vectors that are summed up at once
  Work work;
};

// Chooses images, columns, block and channel_block: packed rows stay in the L2 cache, or
// in the L1 cache where many non-zeros read them and do little with what they read, and
// memory is read in long runs.
void cut(Plan& plan, const Use& use);

constexpr int64_t kMaxTurns = 8;

// Non-zeros by (turn, class, output channel), then in the order of the index.
struct List {
  int32_t* begin;  // of each group, and the end: all_groups() + 1 of them
  Entry* entries;
  int32_t* rank;  // entry → its position in the index; null unless asked for
  int64_t size;
};

class BadIndex {};

// The selected weights; what a pass does not use is null.
struct Kernel {
  const int32_t* index;
  const float* mean;
  const float* sigma;
  int64_t size;
  const float* scale = nullptr;  // of each output channel: multiplied with the means
};

// A counting sort of the non-zeros into the memory of `list`, in parallel over fixed
// chunks of the index. Throws BadIndex on an index outside the kernel.
void make_list(const Plan& plan, const Shape& s, bool transposed, const Kernel& kernel,
               const List& list, const Pool& pool);

}  // namespace ssvi
