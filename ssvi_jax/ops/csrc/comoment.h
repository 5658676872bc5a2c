// Sums over images of every channel, for batch norm and its gradient.
#pragma once

// A part of the pixels: adds Σa, Σ(b − c) and Σa(b − c) of each channel to `sums`
// [channels][3]; see Moments. `scratch` holds 3 vectors a channel.
template <bool rectified>
static void add_sums_of(const Moments& m, int64_t first, int64_t pixels, double* sums,
                        float* scratch) {
  constexpr int64_t kTerms = 512;  // that a lane sums up in single precision
  const int64_t n = m.n, channels = m.channels, vectors = (n + kLanes - 1) / kLanes;
  const int64_t run = kTerms > vectors ? kTerms / vectors : 1;
  for (int64_t low = first; low < first + pixels; low += run) {
    const int64_t high = low + run < first + pixels ? low + run : first + pixels;
    __builtin_memset(scratch, 0, sizeof(float) * 3 * kLanes * channels);
    for (int64_t p = low; p < high; ++p) {
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t at = (p * channels + c) * n;
        const vf center = splat(m.center == nullptr ? 0.0f : m.center[c]);
        const vf factor = splat(rectified ? m.factor[c] : 0.0f);
        const vf shift = splat(rectified ? m.shift[c] : 0.0f);
        float* mine = scratch + 3 * kLanes * c;
        vf sum_a = load(mine), sum_b = load(mine + kLanes);
        vf sum_ab = load(mine + 2 * kLanes);
        for (int64_t i = 0; i < n; i += kLanes) {
          const int live = n - i < kLanes ? static_cast<int>(n - i) : kLanes;
          vf a = load_some(m.a + at + i, live);
          const vf b = load_some(m.b + at + i, live);
          if constexpr (rectified) a = select(b * factor + shift > 0.0f, a, vf{});
          sum_a += a;
          sum_b += b - center;
          sum_ab += a * (b - center);
        }
        store(mine, sum_a);
        store(mine + kLanes, sum_b);
        store(mine + 2 * kLanes, sum_ab);
      }
    }
    for (int64_t i = 0; i < 3 * channels; ++i)
      for (int lane = 0; lane < kLanes; ++lane)
        sums[i] += static_cast<double>(scratch[i * kLanes + lane]);
  }
}

static void add_sums(const Moments& m, int64_t first, int64_t pixels, double* sums,
                     float* scratch) {
  if (m.factor != nullptr)
    add_sums_of<true>(m, first, pixels, sums, scratch);
  else
    add_sums_of<false>(m, first, pixels, sums, scratch);
}
