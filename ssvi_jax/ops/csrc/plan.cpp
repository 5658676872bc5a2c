#include "plan.h"

#include <algorithm>
#include <climits>
#include <cmath>

#if defined(__linux__)
#include <unistd.h>
#endif

#include "isa.h"

namespace ssvi {
namespace {

int ceil_div(int64_t a, int64_t b) {
  return static_cast<int>(a >= 0 ? (a + b - 1) / b : -(-a / b));
}

// Bytes of a cache, as the system calls it, or what is usual where it does not say.
int64_t cache_size(int name, int64_t usual) {
#if defined(__linux__)
  const int64_t size = sysconf(name);
  if (size > 0) return size;
#endif
  (void)name;
  return usual;
}
#if defined(_SC_LEVEL1_DCACHE_SIZE)
constexpr int kLevel1 = _SC_LEVEL1_DCACHE_SIZE, kLevel2 = _SC_LEVEL2_CACHE_SIZE;
#else
constexpr int kLevel1 = -1, kLevel2 = -1;
#endif

// The share of the L2 cache for packed rows; the rest is for lists and outputs.
int64_t budget() {
  static const int64_t bytes =
      std::clamp<int64_t>(cache_size(kLevel2, 1 << 20) * 3 / 4, 1 << 18, 5 << 18);
  return bytes;
}

int64_t level1() {
  static const int64_t bytes = cache_size(kLevel1, 1 << 15);
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
int64_t vectors(const Plan& plan) { return int64_t{plan.columns} * plan.images; }

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
  plan.phases = static_cast<int>(std::min(s.sw, s.kw));
  plan.reach = static_cast<int>((s.kw - 1) / s.sw);
  plan.col_step = static_cast<int>(s.sw);
  plan.col_first = static_cast<int>(-s.left);
  for (int64_t k = 0; k < s.kh; ++k) plan.row_tap.push_back(static_cast<int>(k));
  for (int64_t k = 0; k < s.kw; ++k) {
    plan.tap_phase.push_back(static_cast<int>(k % s.sw));
    plan.tap_index.push_back(static_cast<int>(k / s.sw));
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
  classes(s.w, s.kw, s.sw, s.left, plan.cols, plan.col_class, plan.tap_index,
          plan.v_low, v_high);
  plan.row_step = plan.in_step = 1;
  plan.row_taps = static_cast<int>((s.kh - 1) / s.sh) + 1;
  plan.in_first = 1 - plan.row_taps;
  plan.tap_phase.assign(s.kw, 0);
  plan.phases = plan.col_step = 1;
  plan.reach = static_cast<int>((s.kw - 1) / s.sw);
  plan.col_first = -plan.reach;
  plan.width = v_high - plan.v_low;
  return plan;
}

namespace {

// Nanoseconds, fitted to the times of 2,700 cuts of ten layers (Zen 5, one core): to read
// a cache line from memory that is touched in runs of so many bytes, since short runs
// leave the prefetchers without work; to read one from the L2 cache; of a vector of
// multiply-adds; of a group's sums in a tile besides its non-zeros; and of the sums
// over the lanes of a weight's gradient.
double read_cost(int64_t run) {
  return run <= 64 ? 5 : run <= 128 ? 4 : run <= 256 ? 3 : 1.4;
}
constexpr double kLine = 0.3, kMultiplyAdd = 0.12, kTileOfGroup = 8, kLaneSums = 4;

// Nanoseconds by which a vector comes later from the L2 cache than it could be used.
double late(const Use& use) {
  return std::max(0.0, kLine * use.lanes / 16 - use.work.products * kMultiplyAdd);
}

// The share of the reads for sums that the L1 cache does not hold.
double missed(const Plan& plan) {
  const double packed = 4.0 * plan.channel_block * plan.channel_stride;
  return std::max(0.0, 1 - level1() / packed);
}

// Time of a cut besides the multiply-adds, a row u, column v and vector of images.
double cost(const Plan& plan, const Use& use) {
  const int64_t blocks = plan.column_blocks();
  const double spread = plan.phases * (1 + double(blocks) * plan.reach / plan.width);
  const int64_t vectors = int64_t{plan.images} * plan.columns;
  const int64_t block = std::min<int64_t>(plan.n, plan.images * plan.lanes);
  const double read = read_cost(4 * block);
  const int64_t turns = plan.turns();
  // One turn keeps the rows that neighbouring blocks share; so does every turn where
  // outputs are not made.
  const bool keeps = (use.weights || turns == 1) && plan.row_taps > plan.row_step;
  const double rows =
      keeps ? plan.row_step : double(plan.packed_rows(plan.block)) / plan.block;
  const double moved = keeps ? double(plan.row_taps - plan.row_step) / plan.block : 0;
  const double lines = plan.lanes / 16.0;  // of a packed vector
  // Of what is read for it: memory comes in whole lines.
  const double touched = std::max(lines, 1.0 / plan.images);
  double total = plan.sources * plan.in_channels * spread *
                 (touched * rows * read + lines * moved);
  total += use.size * plan.sources * missed(plan) * late(use);
  if (use.weights) {
    total += touched * turns * 2 * plan.out_channels * read;
    total += use.size * kLaneSums / (vectors * plan.block);
  } else {
    // The last block of columns may be narrower than the others.
    const int64_t all = int64_t{plan.images} * plan.width;
    const int64_t last = all - (blocks - 1) * vectors;
    const double tiles =
        double((blocks - 1) * ceil_div(vectors, use.tile) + ceil_div(last, use.tile)) /
        all;
    total += (use.size * use.work.entry + kTileOfGroup * plan.all_groups()) * tiles;
    total += (turns - 1) * use.work.kept * plan.sums * plan.groups();
    if (use.paired && block % 32 != 0) total += 8 * plan.out_channels;
  }
  return total;
}

// Sets what follows from images, columns, block and turns; returns whether it fits the
// cache.
bool fit(Plan& plan, const Use& use, int64_t turns) {
  plan.row_stride = int64_t{plan.phases} * (plan.columns + plan.reach) * plan.images *
                    plan.sources * plan.lanes;
  plan.channel_stride = plan.row_stride * plan.packed_rows(plan.block);
  plan.channel_block = ceil_div(plan.in_channels, turns);
  if (use.weights) {
    // g and g·slope of a block lie in the L1 cache.
    const int64_t vectors = int64_t{plan.block} * plan.columns * plan.images;
    if (vectors * plan.lanes > 2048 && vectors > 1) return false;
  }
  const int64_t waiting = use.weights ? 0 : plan.waiting();
  return 4 * (plan.channel_block * plan.channel_stride + waiting) <= budget();
}

}  // namespace

void cut(Plan& plan, const Use& use) {
  plan.lanes = use.lanes;
  plan.sources = use.sources;
  plan.sums = use.sums;
  plan.rows_data = plan.rows.data();
  plan.cols_data = plan.cols.data();
  plan.row_classes = static_cast<int>(plan.rows.size());
  plan.col_classes = static_cast<int>(plan.cols.size());
  const int vectors = ceil_div(plan.n, plan.lanes), rows = plan.u_high - plan.u_low;
  // What stays if nothing fits: the smallest.
  int images = 1, columns = 1, block = 1;
  int64_t turns = use.weights ? plan.in_channels : 1;
  double best = HUGE_VAL;
  for (plan.images = 1; plan.images <= std::min(vectors, 128 / plan.lanes);
       plan.images *= 2) {
    for (int parts = 1; parts <= plan.width; parts += (parts + 2) / 3) {
      plan.columns = ceil_div(plan.width, parts);
      for (plan.block = 1; plan.block <= std::min(rows, 16); ++plan.block) {
        bool fits = false;
        for (int64_t turn = 1; turn <= std::min(kMaxTurns, plan.in_channels); ++turn) {
          if (!fit(plan, use, turn)) continue;
          // More turns only help where the L1 cache does not hold what is packed.
          if (fits && late(use) == 0) break;
          fits = true;
          const double now = cost(plan, use);
          if (now < best) {
            best = now, turns = turn;
            images = plan.images, columns = plan.columns, block = plan.block;
          }
          if (missed(plan) == 0) break;
        }
        if (!fits) break;
      }
    }
  }
  plan.images = images, plan.columns = columns, plan.block = block;
  fit(plan, use, turns);
}

void make_list(const Plan& plan, const Shape& s, bool transposed, const Kernel& kernel,
               const List& list, const Pool& pool) {
  const int64_t size = kernel.size;
  const int64_t taps = s.kh * s.kw, limit = taps * s.ci * s.co;
  const int64_t col_classes = static_cast<int64_t>(plan.cols.size());
  const int64_t turn_groups = plan.groups(), groups = plan.all_groups();
  const int64_t step = int64_t{plan.images} * plan.sources * plan.lanes;
  std::vector<int64_t> tap_offset(taps), tap_group(taps);
  for (int64_t t = 0; t < taps; ++t) {
    const int64_t kh = t / s.kw, kw = t % s.kw;
    const int64_t slot =
        plan.tap_phase[kw] * (plan.columns + plan.reach) + plan.tap_index[kw];
    tap_offset[t] = plan.row_tap[kh] * plan.row_stride + slot * step;
    tap_group[t] = (plan.row_class[kh] * col_classes + plan.col_class[kw]) *
                   plan.out_channels;
  }
  // Fixed chunks make the order independent of the number of threads.
  const int64_t chunks = size > 16384 && pool.threads > 1 ? 8 : 1;
  std::vector<int32_t> count(chunks * groups, 0);
  std::vector<char> bad(chunks, 0);
  // Calls visit(position, group, offset, output channel of the kernel) for the non-zeros
  // of a chunk. Runs of one input channel are found by comparison: divisions would cost
  // as much as the sort.
  auto walk = [&](int64_t chunk, auto&& visit) {
    int64_t row_end = -1, row = 0, base = 0, offset = 0;
    const int64_t end = size * (chunk + 1) / chunks;
    for (int64_t i = size * chunk / chunks; i < end; ++i) {
      const int64_t flat = kernel.index[i];
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
          base = ci / plan.channel_block * turn_groups;
          offset = tap_offset[tap] + ci % plan.channel_block * plan.channel_stride;
        }
      }
      const int64_t co = flat - row;
      if (transposed)
        visit(i, base + co / plan.channel_block * turn_groups,
              offset + co % plan.channel_block * plan.channel_stride, co);
      else
        visit(i, base + co, offset, co);
    }
  };
  parallel_for(pool, chunks, [&](int64_t chunk) {
    int32_t* mine = count.data() + chunk * groups;
    walk(chunk, [&](int64_t, int64_t group, int64_t, int64_t) { ++mine[group]; });
  });
  for (char flag : bad)
    if (flag) throw BadIndex();
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
    walk(chunk, [&](int64_t i, int64_t group, int64_t offset, int64_t channel) {
      const int32_t at = next[group]++;
      float mean = kernel.mean == nullptr ? 0.0f : kernel.mean[i];
      if (kernel.scale != nullptr) mean *= kernel.scale[channel];
      const float sd = kernel.sigma == nullptr ? 0.0f : kernel.sigma[i];
      list.entries[at] = {static_cast<int32_t>(offset), mean, sd * sd};
      if (list.rank != nullptr) list.rank[at] = static_cast<int32_t>(i);
    });
  });
}

int64_t gather_scratch(const Plan& plan) {
  return plan.channel_block * plan.channel_stride + plan.waiting() + 4 * vectors(plan);
}

int64_t weights_scratch(const Plan& plan, bool sampled) {
  const int64_t gradient = vectors(plan) * plan.block * plan.lanes * (sampled ? 2 : 1);
  return plan.channel_block * plan.channel_stride + gradient + 4 * vectors(plan);
}

}  // namespace ssvi
