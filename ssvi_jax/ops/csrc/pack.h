// Copying inputs of one block of images into the cache, zero-padded.
#pragma once

// What vector j of a row of outputs is in memory: vectors run over columns and, inside
// a column, over the blocks of `lanes` images.
struct Vector {
  int64_t offset;  // from the start of the row
  int32_t live;    // images that exist
};

SSVI_INLINE int live_lanes(const Plan& plan, int64_t image) {
  const int64_t left = plan.n - image;
  return static_cast<int>(left < 0 ? 0 : left > kLanes ? kLanes : left);
}

// Describes the columns of one class in [v0, v1); returns the number of vectors.
static int describe_row(const Plan& plan, const Range& cols, int64_t first_image,
                        int v0, int v1, Vector* out) {
  int count = 0;
  const int low = v0 > cols.low ? v0 : cols.low, high = v1 < cols.high ? v1 : cols.high;
  for (int v = low; v < high; ++v) {
    for (int i = 0; i < plan.images; ++i) {
      const int64_t image = first_image + int64_t{i} * kLanes;
      const int64_t col = int64_t{v} * cols.step + cols.first;
      out[count++] = {col * plan.out_channels * plan.n + image, live_lanes(plan, image)};
    }
  }
  return count;
}

SSVI_INLINE int input_row(const Plan& plan, int u0, int l) {
  return (u0 + l / plan.row_step) * plan.in_step + l % plan.row_step + plan.in_first;
}

// The block that a task packs from: where it begins in images and columns.
struct Corner {
  int64_t image;
  int v0;
};

// How many channels ahead memory is asked for: the runs of one channel are too short for
// the processor to see where it goes on. Behind the last channel lies the next pixel.
constexpr int64_t kAhead = 16;

// What is packed: an input, times a factor beside it if there are two sources.
struct Source {
  const float *input, *factor;
  NormGradient norm;  // with two sources
};

SSVI_INLINE vf through(const NormGradient& norm, int64_t channels, int64_t c, vf g,
                       vf y) {
  const float* line = norm.line + c;
  const vf factor = splat(line[0]), shift = splat(line[channels]);
  const vf slope = splat(line[2 * channels]), level = splat(line[3 * channels]);
  return select(y * factor + shift > 0.0f, g, vf{}) * factor + (y * slope + level);
}

// Packs the pixel at `from` for channels [c0, c1); `out` is its place in the first of
// them.
template <int sources, bool normalized>
static void pack_pixel(const Plan& plan, const Source& source, int64_t from,
                       int64_t image, int64_t c0, int64_t c1, float* out) {
  const float* input = source.input + from;
  const float* factor = sources == 2 ? source.factor + from : nullptr;
  const float* y = normalized ? source.norm.y + from : nullptr;
  const int images = plan.images;
  const bool whole = image + int64_t{images} * kLanes <= plan.n;
  for (int64_t c = c0; c < c1; ++c, out += plan.channel_stride) {
    for (int k = 0; k < images; ++k) {
      const int64_t at = c * plan.n + image + k * kLanes;
      const int live = whole ? kLanes : live_lanes(plan, image + k * kLanes);
      prefetch(input + at + kAhead * plan.n);
      if constexpr (sources == 2) prefetch(factor + at + kAhead * plan.n);
      if constexpr (normalized) prefetch(y + at + kAhead * plan.n);
      vf value = load_some(input + at, live);
      if constexpr (normalized)
        value = through(source.norm, plan.in_channels, c, value, load_some(y + at, live));
      store(out + k * sources * kLanes, value);
      if constexpr (sources == 2) {
        const vf slope = load_some(factor + at, live);
        store(out + (2 * k + 1) * kLanes, value * slope);
      }
    }
  }
}

// Packs rows [low, high) of the block that starts at u0 for channels [c0, c1), in the
// order of memory.
static void pack(const Plan& plan, const Source& source, Corner corner, int64_t c0, int64_t c1, int u0, int low, int high,
                 float* packed) {
  const int64_t step = int64_t{plan.images} * plan.sources * kLanes;
  for (int l = low; l < high; ++l) {
    const int64_t row = input_row(plan, u0, l);
    float* out = packed + l * plan.row_stride;
    for (int phase = 0; phase < plan.phases; ++phase) {
      for (int i = 0; i < plan.columns + plan.reach; ++i, out += step) {
        const int64_t col =
            int64_t{corner.v0 + i} * plan.col_step + phase + plan.col_first;
        if (row < 0 || row >= plan.in_h || col < 0 || col >= plan.in_w) {
          for (int64_t c = 0; c < c1 - c0; ++c)
            __builtin_memset(out + c * plan.channel_stride, 0, sizeof(float) * step);
          continue;
        }
        const int64_t at = (row * plan.in_w + col) * plan.in_channels * plan.n;
        if (source.norm.y != nullptr)
          pack_pixel<2, true>(plan, source, at, corner.image, c0, c1, out);
        else if (plan.sources == 2)
          pack_pixel<2, false>(plan, source, at, corner.image, c0, c1, out);
        else
          pack_pixel<1, false>(plan, source, at, corner.image, c0, c1, out);
      }
    }
  }
}

// Moves from the block of `before` rows u that ends at u0 to the one that starts there:
// rows that both need are moved, the rest is packed. `before` is 0 for the first block.
static void advance(const Plan& plan, const Source& source, Corner corner, int64_t c0, int64_t c1, int u0, int before,
                    int count, float* packed) {
  const int kept = before > 0 ? plan.row_taps - plan.row_step : 0;
  if (kept > 0) {
    for (int64_t c = 0; c < c1 - c0; ++c) {
      float* start = packed + c * plan.channel_stride;
      __builtin_memmove(start, start + before * plan.row_step * plan.row_stride,
                        sizeof(float) * kept * plan.row_stride);
    }
  }
  pack(plan, source, corner, c0, c1, u0, kept, plan.packed_rows(count),
       packed);
}
