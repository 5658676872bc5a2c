// Sums over images of every channel, for batch norm and its gradient.
#pragma once

// Adds Σa, Σb and Σab of each channel over `pixels` pixels, which lie one after another
// as [channels][n], to `sums` [channels][3]. `scratch` holds 3 vectors a channel.
static void add_sums(const float* a, const float* b, int64_t pixels, int64_t channels,
                     int64_t n, double* sums, float* scratch) {
  constexpr int64_t kTerms = 512;  // that a lane sums up in single precision
  const int64_t vectors = (n + kLanes - 1) / kLanes;
  const int64_t run = kTerms > vectors ? kTerms / vectors : 1;
  for (int64_t low = 0; low < pixels; low += run) {
    const int64_t high = low + run < pixels ? low + run : pixels;
    __builtin_memset(scratch, 0, sizeof(float) * 3 * kLanes * channels);
    for (int64_t p = low; p < high; ++p) {
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t at = (p * channels + c) * n;
        float* mine = scratch + 3 * kLanes * c;
        vf sum_a = load(mine), sum_b = load(mine + kLanes);
        vf sum_ab = load(mine + 2 * kLanes);
        for (int64_t i = 0; i < n; i += kLanes) {
          const int live = n - i < kLanes ? static_cast<int>(n - i) : kLanes;
          const vf va = load_some(a + at + i, live), vb = load_some(b + at + i, live);
          sum_a += va;
          sum_b += vb;
          sum_ab += va * vb;
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
