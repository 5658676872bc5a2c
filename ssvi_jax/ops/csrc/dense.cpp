#include <algorithm>

#include "passes.h"
#include "scratch.h"

namespace ssvi {
namespace {

thread_local Scratch scratch;

// The gradient of all weights: channels of a task; bytes of a block, which lies in the L2
// cache; its outputs, of which a tile lies in the L1 cache; columns.
constexpr int64_t kDenseIn = 32, kDenseOut = 66, kDenseBytes = 700 << 10;
constexpr int64_t kDenseOutputs = 64, kDenseColumns = 32;

int64_t parts_of(int64_t size, int64_t most) { return (size + most - 1) / most; }

// Blocks as large as the caches allow: the sums of a block are added up over lanes.
DenseGradient cut_dense(const Isa& isa, const Shape& s, const float* x, const float* g,
                        float* sums) {
  DenseGradient d{s, x, g, sums, 1, 1, 1, 0, 0};
  d.columns = static_cast<int>(parts_of(s.q, parts_of(s.q, kDenseColumns)));
  const int64_t in = parts_of(parts_of(s.ci, parts_of(s.ci, kDenseIn)), isa.tile_in);
  const int64_t out = parts_of(parts_of(s.co, parts_of(s.co, kDenseOut)), isa.tile_out);
  auto fits = [&](int64_t vectors, int64_t rows) {
    const int64_t x_rows = (rows - 1) * s.sh + s.kh;
    const int64_t x_columns = (d.columns - 1) * s.sw + s.kw;
    d.x_floats = vectors * x_rows * x_columns * in * isa.tile_in * isa.lanes;
    d.g_floats = vectors * rows * d.columns * out * isa.tile_out * isa.lanes;
    return 4 * (d.x_floats + d.g_floats) <= kDenseBytes &&
           vectors * rows * d.columns <= kDenseOutputs;
  };
  while (d.rows < s.p && fits(1, d.rows + 1)) ++d.rows;
  const int64_t all = parts_of(s.n, isa.lanes);
  while (d.rows == s.p && d.vectors < all && fits(d.vectors + 1, d.rows)) ++d.vectors;
  fits(d.vectors, d.rows);
  return d;
}

}  // namespace

void dense_gradient(const Machine& machine, const Shape& shape, const float* x,
                    const float* g, float* sums) {
  if (shape.n == 0 || shape.co == 0 || shape.p == 0 || shape.q == 0) {
    std::fill_n(sums, shape.kh * shape.kw * shape.ci * shape.co, 0.0f);
    return;
  }
  const Isa& isa = *machine.isa;
  const int64_t in_parts = parts_of(shape.ci, kDenseIn);
  const int64_t out_parts = parts_of(shape.co, kDenseOut);
  const DenseGradient d = cut_dense(isa, shape, x, g, sums);
  // More tasks pack the same input again; no sum depends on it.
  const int64_t pairs = in_parts * out_parts;
  const int64_t tap_parts = pairs >= 2 * machine.pool.threads ? 1 : shape.kh;
  parallel_for(machine.pool, pairs * tap_parts, [&](int64_t i) {
    const int64_t t = i % tap_parts, in = i / tap_parts % in_parts;
    const int64_t out = i / tap_parts / in_parts;
    const DenseTask task{part<int64_t>(0, shape.kh, t, tap_parts),
                         part<int64_t>(0, shape.kh, t + 1, tap_parts),
                         part<int64_t>(0, shape.ci, in, in_parts),
                         part<int64_t>(0, shape.ci, in + 1, in_parts),
                         part<int64_t>(0, shape.co, out, out_parts),
                         part<int64_t>(0, shape.co, out + 1, out_parts)};
    const int64_t outputs = int64_t{d.vectors} * d.rows * d.columns;
    isa.dense_gradient(d, task,
                       scratch.get<float>(d.x_floats + d.g_floats + outputs));
  });
}

}  // namespace ssvi
