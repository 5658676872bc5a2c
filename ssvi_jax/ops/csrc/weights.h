// The gradient of the selected means and variances.
#pragma once

// Sums over a block of rows of x·g and x²·(g·slope) for `size` non-zeros. Both factors
// of a position are loaded once for all of them.
template <int size, bool sampled>
static void group_sums(const float* packed, int64_t row_step, const Entry* entry,
                       const float* g, int rows, int count, float* out) {
  constexpr int sums = sampled ? 2 * size : size;
  vf sum[sums] = {};
  const float* x[size];
  for (int k = 0; k < size; ++k) x[k] = packed + entry[k].offset;
  for (int r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < int64_t{count} * kLanes; j += kLanes) {
      const vf first = load_once(g);
      vf second{};
      if constexpr (sampled) second = load_once(g + kLanes);
      g += (sampled ? 2 : 1) * kLanes;
#pragma GCC unroll 8
      for (int k = 0; k < size; ++k) {
        const vf value = load_once(x[k] + j);
        if constexpr (sampled) {
          sum[2 * k] += value * first;
          sum[2 * k + 1] += value * value * second;
        } else {
          sum[k] += value * first;
        }
      }
    }
    for (int k = 0; k < size; ++k) x[k] += row_step;
  }
  vf all[kLanes] = {};
  for (int k = 0; k < sums; ++k) all[k] = sum[k];
  alignas(64) float totals[kLanes];
  store(totals, sum_each<kLanes>(all));
  for (int k = 0; k < sums; ++k) out[k] += totals[k];
}

typedef void (*GroupSums)(const float*, int64_t, const Entry*, const float*, int, int,
                          float*);

template <int size>
static constexpr void fill_groups(GroupSums* sampled, GroupSums* plain) {
  sampled[size] = group_sums<size, true>;
  plain[size] = group_sums<size, false>;
  if constexpr (size > 1) fill_groups<size - 1>(sampled, plain);
}

struct GroupTables {
  GroupSums sampled[kGroup + 1], plain[kGroup + 1];
  constexpr GroupTables() : sampled(), plain() { fill_groups<kGroup>(sampled, plain); }
};
static constexpr GroupTables kGroupTables;

// Copies g, and g·slope beside it, for rows [u0, u0 + rows) of one output channel.
static void pack_gradient(const Weights& w, const Vector* vectors, int count,
                          int64_t channel, int u0, int rows, float* out) {
  const Plan& plan = *w.plan;
  for (int r = 0; r < rows; ++r) {
    const int64_t base = ((u0 + r) * plan.out_w * plan.out_channels + channel) * plan.n;
    for (int j = 0; j < count; ++j) {
      const int64_t at = base + vectors[j].offset;
      vf g = load_some(w.g + at, vectors[j].live);
      if (w.norm.y != nullptr) {
        const vf y = load_some(w.norm.y + at, vectors[j].live);
        g = through(w.norm, plan.out_channels, channel, g, y);
      }
      store(out, g);
      out += kLanes;
      if (w.slope == nullptr) continue;
      store(out, g * load_some(w.slope + at, vectors[j].live));
      out += kLanes;
    }
  }
}

static void weights(const Weights& w, const WeightsTask& task, float* scratch) {
  const Plan& plan = *w.plan;
  const int width = w.slope == nullptr ? 1 : 2;
  const GroupSums* table = width == 2 ? kGroupTables.sampled : kGroupTables.plain;
  float* packed = scratch;
  float* gradient = packed + plan.channel_block * plan.channel_stride;
  Vector* vectors = reinterpret_cast<Vector*>(
      gradient + int64_t{plan.block} * plan.columns * plan.images * width * kLanes);
  const int64_t per = plan.channel_block, blocks = (plan.in_channels + per - 1) / per;
  for (int64_t b = 0; b < blocks; ++b) {
    const int32_t* begin = w.begin + b * plan.out_channels;
    const int64_t from = begin[task.channel_low], to = begin[task.channel_high];
    __builtin_memset(task.sums + width * from, 0, sizeof(float) * width * (to - from));
  }
  const int64_t column_blocks = plan.column_blocks();
  for (int64_t block = task.block_low; block < task.block_high; ++block) {
    const Corner corner{block / column_blocks * plan.images * kLanes,
                        static_cast<int>(block % column_blocks) * plan.columns};
    const int count = describe_row(plan, plan.cols_data[0], corner.image, corner.v0,
                                   corner.v0 + plan.columns, vectors);
    for (int64_t b = 0; b < blocks; ++b) {
      const int32_t* begin = w.begin + b * plan.out_channels;
      const int64_t c0 = b * plan.channel_block, c1 = c0 + plan.channel_block;
      const int64_t end = c1 < plan.in_channels ? c1 : plan.in_channels;
      int before = 0;
      for (int u0 = task.u_low; u0 < task.u_high; u0 += before) {
        const int left = task.u_high - u0;
        const int rows = left < plan.block ? left : plan.block;
        advance(plan, {w.input, nullptr, {}}, corner, c0, end, u0, before, rows, packed);
        before = rows;
        for (int64_t co = task.channel_low; co < task.channel_high; ++co) {
          if (begin[co] == begin[co + 1]) continue;
          pack_gradient(w, vectors, count, co, u0, rows, gradient);
          for (int i = begin[co]; i < begin[co + 1]; i += kGroup) {
            const int rest = begin[co + 1] - i, size = rest < kGroup ? rest : kGroup;
            table[size](packed, plan.row_step * plan.row_stride, w.entries + i, gradient,
                        rows, count, task.sums + int64_t{i} * width);
          }
        }
      }
    }
  }
}
