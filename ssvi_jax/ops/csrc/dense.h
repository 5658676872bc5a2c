// The gradient of every weight of a kernel, kept or not: a product of patches and g.
#pragma once

// Input and output channels of a tile of sums, which are kept in registers.
constexpr int kTileIn = kLanes == 16 ? 4 : 3, kTileOut = kLanes == 16 ? 6 : 4;

// One block of positions, packed: [tile][vector][row][column][channel of the tile][lane].
struct Block {
  const float *x, *g;
  int vectors, rows, columns;  // of outputs
  int x_rows, x_columns;       // of inputs; strides and taps are those of `shape`
};

// Adds the gradients of one tile at one tap to out[ci][co], as far as they exist.
static void dense_tile(const Shape& shape, const Block& b, const float* x,
                       const float* g, float* out, int64_t live_in, int64_t live_out) {
  constexpr int count = kTileIn * kTileOut;
  constexpr int whole = (count + kLanes - 1) / kLanes * kLanes;
  constexpr int64_t x_step = kTileIn * kLanes, g_step = kTileOut * kLanes;
  vf sum[whole] = {};
  for (int v = 0; v < b.vectors; ++v) {
    for (int r = 0; r < b.rows; ++r) {
      const float* xs = x + (int64_t{v} * b.x_rows + r * shape.sh) * b.x_columns * x_step;
      for (int q = 0; q < b.columns; ++q, xs += shape.sw * x_step, g += g_step) {
        vf in[kTileIn];
#pragma GCC unroll 8
        for (int i = 0; i < kTileIn; ++i) in[i] = load(xs + i * kLanes);
#pragma GCC unroll 8
        for (int o = 0; o < kTileOut; ++o) {
          const vf value = load_once(g + o * kLanes);
#pragma GCC unroll 8
          for (int i = 0; i < kTileIn; ++i) sum[i * kTileOut + o] += in[i] * value;
        }
      }
    }
  }
  alignas(64) float totals[whole];
  for (int k = 0; k < whole; k += kLanes) store(totals + k, sum_each<kLanes>(sum + k));
  for (int64_t i = 0; i < live_in; ++i)
    for (int64_t o = 0; o < live_out; ++o)
      out[i * shape.co + o] += totals[i * kTileOut + o];
}

// Packs `channels` channels from `first` in tiles; what lies outside becomes 0.
template <int tile>
static void pack_tiles(const float* images, int64_t height, int64_t width, int64_t all,
                       int64_t n, int64_t first, int64_t channels, int64_t image,
                       int vectors, int64_t row, int rows, int64_t column, int columns,
                       float* out) {
  for (int64_t c0 = 0; c0 < channels; c0 += tile) {
    for (int v = 0; v < vectors; ++v) {
      const int64_t from = image + int64_t{v} * kLanes, left = n - from;
      const int live = static_cast<int>(left < 0 ? 0 : left > kLanes ? kLanes : left);
      for (int64_t r = row; r < row + rows; ++r) {
        for (int64_t q = column; q < column + columns; ++q) {
          const bool inside = r >= 0 && r < height && q >= 0 && q < width;
          const float* pixel = images + ((r * width + q) * all + first) * n + from;
          for (int c = 0; c < tile; ++c, out += kLanes) {
            const bool exists = inside && c0 + c < channels;
            store(out, exists ? load_some(pixel + (c0 + c) * n, live) : vf{});
          }
        }
      }
    }
  }
}

// All tiles of a block, for kernel rows [tap_low, tap_high).
static void dense_block(const DenseGradient& d, const DenseTask& t, const Block& b) {
  const Shape& s = d.shape;
  const int64_t x_tile = int64_t{b.vectors} * b.x_rows * b.x_columns * kTileIn * kLanes;
  const int64_t g_tile = int64_t{b.vectors} * b.rows * b.columns * kTileOut * kLanes;
  const int64_t in = t.in_high - t.in_low, out = t.out_high - t.out_low;
  for (int64_t kh = t.tap_low; kh < t.tap_high; ++kh) {
    for (int64_t kw = 0; kw < s.kw; ++kw) {
      const int64_t tap = (kh * b.x_columns + kw) * kTileIn * kLanes;
      float* sums = d.sums + ((kh * s.kw + kw) * s.ci + t.in_low) * s.co + t.out_low;
      for (int64_t i = 0; i < in; i += kTileIn) {
        const float* x = b.x + i / kTileIn * x_tile + tap;
        for (int64_t o = 0; o < out; o += kTileOut)
          dense_tile(s, b, x, b.g + o / kTileOut * g_tile, sums + i * s.co + o,
                     in - i < kTileIn ? in - i : kTileIn,
                     out - o < kTileOut ? out - o : kTileOut);
      }
    }
  }
}

static void dense_gradient(const DenseGradient& d, const DenseTask& t, float* scratch) {
  const Shape& s = d.shape;
  for (int64_t tap = t.tap_low * s.kw; tap < t.tap_high * s.kw; ++tap)
    for (int64_t ci = t.in_low; ci < t.in_high; ++ci)
      __builtin_memset(d.sums + (tap * s.ci + ci) * s.co + t.out_low, 0,
                       sizeof(float) * (t.out_high - t.out_low));
  float *x = scratch, *g = scratch + d.x_floats;
  for (int64_t image = 0; image < s.n; image += int64_t{d.vectors} * kLanes) {
    for (int64_t p = 0; p < s.p; p += d.rows) {
      for (int64_t q = 0; q < s.q; q += d.columns) {
        const int rows = static_cast<int>(s.p - p < d.rows ? s.p - p : d.rows);
        const int columns = static_cast<int>(s.q - q < d.columns ? s.q - q : d.columns);
        const Block b{x, g, d.vectors, rows, columns,
                      static_cast<int>((rows - 1) * s.sh + s.kh),
                      static_cast<int>((columns - 1) * s.sw + s.kw)};
        pack_tiles<kTileIn>(d.x, s.h, s.w, s.ci, s.n, t.in_low, t.in_high - t.in_low,
                            image, b.vectors, p * s.sh - s.top, b.x_rows,
                            q * s.sw - s.left, b.x_columns, x);
        pack_tiles<kTileOut>(d.g, s.p, s.q, s.co, s.n, t.out_low,
                             t.out_high - t.out_low, image, b.vectors, p, rows, q,
                             columns, g);
        dense_block(d, t, b);
      }
    }
  }
}
