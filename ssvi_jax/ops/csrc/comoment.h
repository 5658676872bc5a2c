// Sums over all pixels of a channel, for batch norm and its gradient.
#pragma once

// Adds Σa, Σb and Σab over `count` neighbouring floats to `sums`.
static void add_sums(const float* a, const float* b, int64_t count, double* sums) {
  constexpr int kChains = 4;
  constexpr int64_t kRun = 256;  // vectors of a chain summed in single precision
  const int64_t step = kChains * kLanes, end = count / step * step;
  int64_t i = 0;
  while (i < end) {
    vf sum_a[kChains] = {}, sum_b[kChains] = {}, sum_ab[kChains] = {};
    const int64_t stop = end - i > kRun * step ? i + kRun * step : end;
    for (; i < stop; i += step) {
#pragma GCC unroll 4
      for (int k = 0; k < kChains; ++k) {
        const vf va = load_any(a + i + k * kLanes), vb = load_any(b + i + k * kLanes);
        sum_a[k] += va;
        sum_b[k] += vb;
        sum_ab[k] += va * vb;
      }
    }
    for (int k = 0; k < kChains; ++k) {
      for (int lane = 0; lane < kLanes; ++lane) {
        sums[0] += static_cast<double>(sum_a[k][lane]);
        sums[1] += static_cast<double>(sum_b[k][lane]);
        sums[2] += static_cast<double>(sum_ab[k][lane]);
      }
    }
  }
  for (; i < count; ++i) {
    const double va = static_cast<double>(a[i]), vb = static_cast<double>(b[i]);
    sums[0] += va;
    sums[1] += vb;
    sums[2] += va * vb;
  }
}
