// Sums of the gradient of the input that give the gradient of the weights as well.
//
// A non-zero adds m·g and v·g·slope to a tile of input gradients; x·g and x²·g·slope,
// summed over the tile, are its own gradient. Both come from one reading of g.
#pragma once

// With two sources four numbers a position; what the registers do not hold of them is read
// from the L1 cache. With one source there are two, as of the other sums.
constexpr int kMaxBothTile = kLanes == 16 ? 8 : 4;
constexpr int kGroup = kLanes / 2;  // non-zeros at once: two sums each fill a vector

// As Sums; adds to `totals` two numbers an entry, or one without a second source.
typedef void (*BothSums)(const float* packed, const Entry* entry, const Entry* end,
                         const vf* x, float* m, float* v, float* totals);

template <int tile, bool sampled>
static void both_sums(const float* packed, const Entry* entry, const Entry* end,
                      const vf* x, float* m, float* v, float* totals) {
  constexpr int sources = sampled ? 2 : 1;
  vf sum[tile] = {}, sum2[tile] = {}, in[tile], square[tile];
#pragma GCC unroll 16
  for (int t = 0; t < tile; ++t) {
    in[t] = x[t];
    if constexpr (sampled) square[t] = x[t] * x[t];
  }
  while (entry != end) {
    constexpr int group = sampled ? kGroup : kLanes;
    const int size = end - entry < group ? static_cast<int>(end - entry) : group;
    vf lanes[kLanes];  // of each total, to be summed
    for (int k = 0; k < size; ++k, ++entry) {
      const float* g = packed + entry->offset;
      const vf mean = splat(entry->mean), variance = splat(entry->variance);
      vf first = load_once(g), second{};
      sum[0] += mean * first;
      vf own = in[0] * first, own2{};
      if constexpr (sampled) {
        second = load_once(g + kLanes);
        sum2[0] += variance * second;
        own2 = square[0] * second;
      }
#pragma GCC unroll 16
      for (int t = 1; t < tile; ++t) {
        first = load_once(g + sources * t * kLanes);
        sum[t] += mean * first;
        own += in[t] * first;
        if constexpr (sampled) {
          second = load_once(g + (sources * t + 1) * kLanes);
          sum2[t] += variance * second;
          own2 += square[t] * second;
        }
      }
      lanes[sources * k] = own;
      if constexpr (sampled) lanes[sources * k + 1] = own2;
    }
    for (int k = sources * size; k < kLanes; ++k) lanes[k] = vf{};
    const vf all = sum_each<kLanes>(lanes);
    if (size == group) {
      store_any(totals, load_any(totals) + all);
    } else {
      for (int k = 0; k < sources * size; ++k) totals[k] += all[k];
    }
    totals += sources * size;
  }
#pragma GCC unroll 16
  for (int t = 0; t < tile; ++t) {
    store(m + t * kLanes, sum[t]);
    if constexpr (sampled) store(v + t * kLanes, sum2[t]);
  }
}

template <int tile, bool sampled>
static constexpr void fill_both(BothSums* table) {
  table[tile] = both_sums<tile, sampled>;
  if constexpr (tile > 1) fill_both<tile - 1, sampled>(table);
}

struct BothTables {
  BothSums sampled[kMaxBothTile + 1], plain[kMaxTile + 1];
  constexpr BothTables() : sampled(), plain() {
    fill_both<kMaxBothTile, true>(sampled);
    fill_both<kMaxTile, false>(plain);
  }
};
static constexpr BothTables kBothTables;
