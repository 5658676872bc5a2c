// The gradient of every weight of a kernel, kept or not: a product of patches and g.
#pragma once

// Input and output channels of a tile of sums, which are kept in registers.
constexpr int kTileIn = kLanes == 16 ? 4 : 3, kTileOut = kLanes == 16 ? 6 : 4;

// One block of positions, packed: [tile][vector][row][column][channel of the tile][lane].
struct Block {
  const float *x, *g;
  int vectors, rows, columns;  // of outputs
  int x_rows, x_columns;       // of inputs; strides and taps are those of `shape`
  const int32_t* offsets;      // in x, of each output: rows are too short for loops

  __attribute__((always_inline)) int outputs() const { return vectors * rows * columns; }
};

// Where the input of the first tap of each output lies in a tile of x.
static void fill_offsets(const Shape& s, const Block& b, int32_t* offsets) {
  for (int v = 0; v < b.vectors; ++v)
    for (int r = 0; r < b.rows; ++r)
      for (int q = 0; q < b.columns; ++q)
        *offsets++ = static_cast<int32_t>(
            ((int64_t{v} * b.x_rows + r * s.sh) * b.x_columns + q * s.sw) * kTileIn *
            kLanes);
}

// Adds the gradients of one tile at one tap to out[ci][channels], as far as they exist.
static void dense_tile(int64_t channels, const Block& b, const float* x, const float* g,
                       float* out, int64_t live_in, int64_t live_out) {
  constexpr int count = kTileIn * kTileOut;
  constexpr int whole = (count + kLanes - 1) / kLanes * kLanes;
  vf sum[count] = {};
  const int outputs = b.outputs();
  for (int k = 0; k < outputs; ++k, g += kTileOut * kLanes) {
    const float* at = x + b.offsets[k];
    vf in[kTileIn];
#pragma GCC unroll 8
    for (int i = 0; i < kTileIn; ++i) in[i] = load(at + i * kLanes);
#pragma GCC unroll 8
    for (int o = 0; o < kTileOut; ++o) {
      const vf value = load_once(g + o * kLanes);
#pragma GCC unroll 8
      for (int i = 0; i < kTileIn; ++i) sum[i * kTileOut + o] += in[i] * value;
    }
  }
  alignas(64) float totals[whole];
#pragma GCC unroll 8
  for (int k = 0; k < whole; k += kLanes) {
    vf lanes[kLanes];
#pragma GCC unroll 16
    for (int j = 0; j < kLanes; ++j) lanes[j] = k + j < count ? sum[k + j] : vf{};
    store(totals + k, sum_each<kLanes>(lanes));
  }
  for (int64_t i = 0; i < live_in; ++i)
    for (int64_t o = 0; o < live_out; ++o)
      out[i * channels + o] += totals[i * kTileOut + o];
}

// Packs `channels` channels from `first` in tiles; what lies outside becomes 0. In the
// order of memory, so that every part of it is touched once.
template <int tile>
static void pack_tiles(const float* images, int64_t height, int64_t width, int64_t all,
                       int64_t n, int64_t first, int64_t channels, int64_t image,
                       int vectors, int64_t row, int rows, int64_t column, int columns,
                       float* out) {
  const int64_t next = int64_t{vectors} * rows * columns * tile * kLanes;
  for (int v = 0; v < vectors; ++v) {
    const int64_t from = image + int64_t{v} * kLanes, left = n - from;
    const int live = static_cast<int>(left < 0 ? 0 : left > kLanes ? kLanes : left);
    for (int64_t r = row; r < row + rows; ++r) {
      for (int64_t q = column; q < column + columns; ++q, out += tile * kLanes) {
        const bool inside = r >= 0 && r < height && q >= 0 && q < width;
        const float* pixel = images + ((r * width + q) * all + first) * n + from;
        float* at = out;
        for (int64_t c0 = 0; c0 < channels; c0 += tile, at += next) {
#pragma GCC unroll 8
          for (int c = 0; c < tile; ++c) {
            const float* channel = pixel + (c0 + c) * n;
            const bool exists = inside && c0 + c < channels;
            if (exists) prefetch(channel + all * n);
            store(at + c * kLanes, exists ? load_some(channel, live) : vf{});
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
  const int64_t g_tile = int64_t{b.outputs()} * kTileOut * kLanes;
  const int64_t in = t.in_high - t.in_low, out = t.out_high - t.out_low;
  // The taps innermost: a tile of g stays in the L1 cache for all of x.
  for (int64_t o = 0; o < out; o += kTileOut) {
    const float* g = b.g + o / kTileOut * g_tile;
    for (int64_t i = 0; i < in; i += kTileIn) {
      const float* x = b.x + i / kTileIn * x_tile;
      for (int64_t tap = t.tap_low * s.kw; tap < t.tap_high * s.kw; ++tap) {
        const int64_t at = tap / s.kw * b.x_columns + tap % s.kw;
        dense_tile(s.co, b, x + at * kTileIn * kLanes, g,
                   d.sums + (tap * s.ci + t.in_low + i) * s.co + t.out_low + o,
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
  float *x = scratch, *g = x + d.x_floats;
  auto* offsets = reinterpret_cast<int32_t*>(g + d.g_floats);
  for (int64_t image = 0; image < s.n; image += int64_t{d.vectors} * kLanes) {
    for (int64_t p = 0; p < s.p; p += d.rows) {
      for (int64_t q = 0; q < s.q; q += d.columns) {
        const int rows = static_cast<int>(s.p - p < d.rows ? s.p - p : d.rows);
        const int columns = static_cast<int>(s.q - q < d.columns ? s.q - q : d.columns);
        const Block b{x, g, d.vectors, rows, columns,
                      static_cast<int>((rows - 1) * s.sh + s.kh),
                      static_cast<int>((columns - 1) * s.sw + s.kw), offsets};
        fill_offsets(s, b, offsets);
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
