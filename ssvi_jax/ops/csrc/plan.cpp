#include "plan.h"

#include <algorithm>
#include <climits>

#if defined(__linux__)
#include <unistd.h>
#endif

#include "isa.h"

namespace ssvi {
namespace {

int ceil_div(int64_t a, int64_t b) {
  return static_cast<int>(a >= 0 ? (a + b - 1) / b : -(-a / b));
}

// The share of the L2 cache for packed rows; the rest is for lists and outputs.
int64_t budget() {
  static const int64_t bytes = [] {
    int64_t l2 = 0;
#if defined(_SC_LEVEL2_CACHE_SIZE)
    l2 = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    if (l2 <= 0) l2 = 1 << 20;
    return std::clamp<int64_t>(l2 * 5 / 8, 1 << 18, 5 << 18);
  }();
  return bytes;
}

// Classes and taps of the input gradient along one axis.
void classes(int64_t size, int64_t kernel, int64_t stride, int64_t low,
             std::vector<Range>& ranges, std::vector<int>& tap_class,
             std::vector<int>& tap, int& first, int& last) {
  const int reach = static_cast<int>((kernel - 1) / stride);
  first = INT_MAX;
  last = INT_MIN;
  for (int64_t a = 0; a < stride; ++a) {
    Range r{ceil_div(low - a, stride), ceil_div(size + low - a, stride),
            static_cast<int>(stride), static_cast<int>(a - low)};
    ranges.push_back(r);
    if (r.low < r.high) {
      first = std::min(first, r.low);
      last = std::max(last, r.high);
    }
  }
  for (int64_t k = 0; k < kernel; ++k) {
    tap_class.push_back(static_cast<int>(k % stride));
    tap.push_back(reach - static_cast<int>(k / stride));
  }
}

// Vectors in a row of outputs; each is described by the size of four floats.
int64_t vectors(const Plan& plan) { return int64_t{plan.width} * plan.images; }

}  // namespace

Plan forward_plan(const Shape& s) {
  Plan plan{};
  plan.n = s.n;
  plan.in_channels = s.ci, plan.in_h = s.h, plan.in_w = s.w;
  plan.out_channels = s.co, plan.out_h = s.p, plan.out_w = s.q;
  plan.rows = {{0, static_cast<int>(s.p), 1, 0}};
  plan.cols = {{0, static_cast<int>(s.q), 1, 0}};
  plan.u_low = 0, plan.u_high = static_cast<int>(s.p), plan.v_low = 0;
  plan.row_class.assign(s.kh, 0);
  plan.col_class.assign(s.kw, 0);
  // A stride beyond the kernel leaves inputs that no output reads: they are not packed.
  plan.row_step = static_cast<int>(std::min(s.sh, s.kh));
  plan.row_taps = static_cast<int>(s.kh);
  plan.in_step = static_cast<int>(s.sh);
  plan.in_first = static_cast<int>(-s.top);
  const int64_t phases = std::min(s.sw, s.kw), length = s.q + (s.kw - 1) / s.sw;
  for (int64_t k = 0; k < s.kh; ++k) plan.row_tap.push_back(static_cast<int>(k));
  for (int64_t k = 0; k < s.kw; ++k)
    plan.col_tap.push_back(static_cast<int>(k % s.sw * length + k / s.sw));
  for (int64_t phase = 0; phase < phases; ++phase)
    for (int64_t i = 0; i < length; ++i) {
      const int64_t col = i * s.sw + phase - s.left;
      plan.col_of_slot.push_back(col >= 0 && col < s.w ? static_cast<int>(col) : -1);
    }
  plan.width = static_cast<int>(s.q);
  return plan;
}

Plan input_gradient_plan(const Shape& s) {
  Plan plan{};
  plan.n = s.n;
  plan.in_channels = s.co, plan.in_h = s.p, plan.in_w = s.q;
  plan.out_channels = s.ci, plan.out_h = s.h, plan.out_w = s.w;
  int v_high;
  classes(s.h, s.kh, s.sh, s.top, plan.rows, plan.row_class, plan.row_tap, plan.u_low,
          plan.u_high);
  classes(s.w, s.kw, s.sw, s.left, plan.cols, plan.col_class, plan.col_tap, plan.v_low,
          v_high);
  plan.row_step = plan.in_step = 1;
  plan.row_taps = static_cast<int>((s.kh - 1) / s.sh) + 1;
  plan.in_first = 1 - plan.row_taps;
  const int reach = static_cast<int>((s.kw - 1) / s.sw);
  for (int col = plan.v_low - reach; col < v_high; ++col)
    plan.col_of_slot.push_back(col >= 0 && col < s.q ? col : -1);
  plan.width = v_high - plan.v_low;
  return plan;
}

void cut(Plan& plan, int lanes, int sources, int pair, bool split_channels) {
  plan.lanes = lanes;
  plan.sources = sources;
  plan.rows_data = plan.rows.data();
  plan.cols_data = plan.cols.data();
  plan.row_classes = static_cast<int>(plan.rows.size());
  plan.col_classes = static_cast<int>(plan.cols.size());
  plan.col_of_slot_data = plan.col_of_slot.data();
  plan.slots = static_cast<int>(plan.col_of_slot.size());
  const int vectors = static_cast<int>((plan.n + lanes - 1) / lanes);
  const int64_t slots = plan.slots;
  const int total = plan.u_high - plan.u_low;
  auto bytes = [&](int images, int count) {
    return 4 * lanes * sources * slots * images * plan.packed_rows(count);
  };
  // Narrow rows need several images to fill a tile of 8 vectors.
  int images = std::max(pair, 8 / std::max(plan.width, 1));
  images = std::max(1, std::min(images, vectors));
  plan.channel_block = plan.in_channels;
  if (split_channels) {
    // About 32 vectors in a block: what a sum over lanes costs is spread over them.
    const int want = std::min(total, ceil_div(32, plan.width * images));
    const int64_t fit = budget() / std::max<int64_t>(1, bytes(images, want));
    const int64_t blocks = ceil_div(plan.in_channels, std::max<int64_t>(1, fit));
    plan.channel_block = ceil_div(plan.in_channels, std::max<int64_t>(1, blocks));
  }
  while (images > 1 && plan.channel_block * bytes(images, 1) > budget()) images /= 2;
  int block = 1;
  while (block < total && plan.channel_block * bytes(images, block + 1) <= budget())
    ++block;
  plan.images = images;
  plan.block = block;
  plan.row_stride = slots * images * sources * lanes;
  plan.channel_stride = plan.row_stride * plan.packed_rows(block);
}

List make_list(const Plan& plan, const Shape& s, bool transposed, const int32_t* index,
               const float* mean, const float* sigma, int64_t size, Entry* entries,
               int32_t* rank, const Pool& pool) {
  const int64_t taps = s.kh * s.kw, limit = taps * s.ci * s.co;
  const int64_t col_classes = static_cast<int64_t>(plan.cols.size());
  const int64_t outer = transposed
                            ? static_cast<int64_t>(plan.rows.size()) * col_classes
                            : ceil_div(plan.in_channels, plan.channel_block);
  const int64_t groups = outer * plan.out_channels;
  const int64_t step = int64_t{plan.images} * plan.sources * plan.lanes;
  std::vector<int64_t> tap_offset(taps), tap_group(taps);
  for (int64_t t = 0; t < taps; ++t) {
    const int64_t kh = t / s.kw, kw = t % s.kw;
    tap_offset[t] = plan.row_tap[kh] * plan.row_stride + plan.col_tap[kw] * step;
    tap_group[t] = (plan.row_class[kh] * col_classes + plan.col_class[kw]) *
                   plan.out_channels;
  }
  // Fixed chunks make the order independent of the number of threads.
  const int64_t chunks = size > 16384 && pool.threads > 1 ? 8 : 1;
  std::vector<int32_t> count(chunks * groups, 0);
  std::vector<char> bad(chunks, 0);
  // Calls visit(position, group, offset) for the non-zeros of a chunk. Runs of one
  // input channel are found by comparison: divisions would cost as much as the sort.
  auto walk = [&](int64_t chunk, auto&& visit) {
    int64_t row_end = -1, row = 0, base = 0, offset = 0;
    const int64_t end = size * (chunk + 1) / chunks;
    for (int64_t i = size * chunk / chunks; i < end; ++i) {
      const int64_t flat = index[i];
      if (flat < row || flat >= row_end) {
        if (flat < 0 || flat >= limit) {
          bad[chunk] = 1;
          return;
        }
        const int64_t line = flat / s.co, tap = line / s.ci, ci = line % s.ci;
        row = line * s.co;
        row_end = row + s.co;
        if (transposed) {
          base = tap_group[tap] + ci;
          offset = tap_offset[tap];
        } else {
          base = ci / plan.channel_block * plan.out_channels;
          offset = tap_offset[tap] + ci % plan.channel_block * plan.channel_stride;
        }
      }
      const int64_t co = flat - row;
      if (transposed)
        visit(i, base, offset + co * plan.channel_stride);
      else
        visit(i, base + co, offset);
    }
  };
  parallel_for(pool, chunks, [&](int64_t chunk) {
    int32_t* mine = count.data() + chunk * groups;
    walk(chunk, [&](int64_t, int64_t group, int64_t) { ++mine[group]; });
  });
  for (char flag : bad)
    if (flag) throw BadIndex();
  List list{std::vector<int32_t>(groups + 1), entries, rank, size};
  int32_t position = 0;
  for (int64_t g = 0; g < groups; ++g) {
    list.begin[g] = position;
    for (int64_t c = 0; c < chunks; ++c) {
      const int32_t here = count[c * groups + g];
      count[c * groups + g] = position;
      position += here;
    }
  }
  list.begin[groups] = position;
  parallel_for(pool, chunks, [&](int64_t chunk) {
    int32_t* next = count.data() + chunk * groups;
    walk(chunk, [&](int64_t i, int64_t group, int64_t offset) {
      const int32_t at = next[group]++;
      const float sd = sigma == nullptr ? 0.0f : sigma[i];
      entries[at] = {static_cast<int32_t>(offset), mean == nullptr ? 0.0f : mean[i],
                     sd * sd};
      if (rank != nullptr) rank[at] = static_cast<int32_t>(i);
    });
  });
  return list;
}

int64_t gather_scratch(const Plan& plan) {
  return plan.in_channels * plan.channel_stride + 4 * vectors(plan);
}

int64_t weights_scratch(const Plan& plan, bool sampled) {
  const int64_t gradient = vectors(plan) * plan.block * plan.lanes * (sampled ? 2 : 1);
  return plan.channel_block * plan.channel_stride + gradient + 4 * vectors(plan);
}

}  // namespace ssvi
