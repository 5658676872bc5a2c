// The forward pass and the gradient of the input.
#pragma once

// Sums over the entries for `tile` neighbouring vectors of outputs, kept in registers.
typedef void (*Sums)(const float* packed, const Entry* entry, const Entry* end,
                     float* m, float* v);

template <int tile>
static void sample_sums(const float* packed, const Entry* entry, const Entry* end,
                        float* m, float* v) {
  vf sum[tile] = {}, sum2[tile] = {};
  for (; entry != end; ++entry) {
    const float* x = packed + entry->offset;
    const vf mean = splat(entry->mean), variance = splat(entry->variance);
#pragma GCC unroll 16
    for (int t = 0; t < tile; ++t) {
      const vf value = load_once(x + t * kLanes);
      sum[t] += mean * value;
      sum2[t] += variance * (value * value);
    }
  }
#pragma GCC unroll 16
  for (int t = 0; t < tile; ++t) {
    store(m + t * kLanes, sum[t]);
    store(v + t * kLanes, sum2[t]);
  }
}

template <int tile>
static void mean_sums(const float* packed, const Entry* entry, const Entry* end,
                      float* m, float*) {
  vf sum[tile] = {};
  for (; entry != end; ++entry) {
    const float* x = packed + entry->offset;
    const vf mean = splat(entry->mean);
#pragma GCC unroll 16
    for (int t = 0; t < tile; ++t) sum[t] += mean * load(x + t * kLanes);
  }
#pragma GCC unroll 16
  for (int t = 0; t < tile; ++t) store(m + t * kLanes, sum[t]);
}

template <int tile>
static void gradient_sums(const float* packed, const Entry* entry, const Entry* end,
                          float* m, float* v) {
  vf sum[tile] = {}, sum2[tile] = {};
  for (; entry != end; ++entry) {
    const float* g = packed + entry->offset;
    const vf mean = splat(entry->mean), variance = splat(entry->variance);
#pragma GCC unroll 16
    for (int t = 0; t < tile; ++t) {
      sum[t] += mean * load(g + 2 * t * kLanes);
      sum2[t] += variance * load(g + (2 * t + 1) * kLanes);
    }
  }
#pragma GCC unroll 16
  for (int t = 0; t < tile; ++t) {
    store(m + t * kLanes, sum[t]);
    store(v + t * kLanes, sum2[t]);
  }
}

template <int tile>
static constexpr void fill_tables(Sums* sample, Sums* mean, Sums* gradient) {
  sample[tile] = sample_sums<tile>;
  mean[tile] = mean_sums<tile>;
  gradient[tile] = gradient_sums<tile>;
  if constexpr (tile > 1) fill_tables<tile - 1>(sample, mean, gradient);
}

struct Tables {
  Sums sample[kMaxTile + 1], mean[kMaxTile + 1], gradient[kMaxTile + 1];
  constexpr Tables() : sample(), mean(), gradient() {
    fill_tables<kMaxTile>(sample, mean, gradient);
  }
};
// Constant: code that fills it at load time would use these instructions anywhere.
static constexpr Tables kTables;

constexpr int kPair = 32 / kLanes;  // vectors that share cipher calls

// One block of rows of one class, as its tiles see it.
struct Stage {
  const Gather* gather;
  const Plan* plan;
  const Sums* sums;
  const BothSums* both;
  float* weight_sums;  // with both gradients: of all non-zeros, else null
  const Vector* vectors;
  const int32_t* begin;  // of this turn's groups
  float* waiting;        // sums of earlier turns, or null
  bool first_turn, last_turn;
  const float* other;  // what is read at the place of each output, or null
  int count, tile;     // vectors in a row and in a tile
  float* moments;      // kSample: of the block's rows
  bool paired;
};

// The position of the noise of the output at `at`: counted in the whole batch, whose
// number of images and first image here follow the seeds in the key.
SSVI_INLINE uint32_t noise_position(const Gather& g, int64_t at) {
  const int64_t n = g.plan->n, whole = g.key[2];
  return static_cast<uint32_t>(whole == n ? at : at + at / n * (whole - n) + g.key[3]);
}

// The sums of all lanes, of two vectors.
struct Pair {
  float first, second;
};
SSVI_INLINE Pair sum_lanes(vf first, vf second) {
  vf sums = add_neighbours(first, second);
  for (int width = kLanes; width > 2; width /= 2) sums = add_neighbours(sums, sums);
  return {sums[0], sums[1]};
}

// Returns Σy and Σy².
static Pair finish_sample(const Gather& g, const Vector* vectors, int count,
                          int64_t base, const float* m, const float* v, bool paired) {
  vf epsilon[kPair], sum{}, squares{};
  const int step = paired ? kPair : 1;
  for (int t = 0; t < count; t += step) {
    if (vectors[t].live == 0) continue;
    const uint32_t position = noise_position(g, base + vectors[t].offset);
    if (paired)
      normal_pair(g.key, position, epsilon);
    else
      epsilon[0] = normal(g.key, position);
    for (int i = 0; i < step; ++i) {
      const Vector at = vectors[t + i];
      const Roots r = roots(load(v + (t + i) * kLanes));
      const vf y = load(m + (t + i) * kLanes) + r.root * epsilon[i];
      const vf slope = 0.5f * epsilon[i] * r.inverse;
      sum += y, squares += y * y;  // 0 where there is no image
      put(g.output + base + at.offset, y, at.live, g.streamed);
      put(g.slope_output + base + at.offset, slope, at.live, g.streamed);
    }
  }
  return sum_lanes(sum, squares);
}

static void finish_others(const Gather& g, const Vector* vectors, int count,
                          int64_t base, const float* m, const float* v, float bias) {
  const bool sampled = g.pass == Pass::kSampleGradient;
  for (int t = 0; t < count; ++t) {
    const int64_t at = base + vectors[t].offset;
    vf value = load(m + t * kLanes) + bias;
    if (sampled) {
      const vf x = load_some(g.x + at, vectors[t].live);
      value += 2.0f * x * load(v + t * kLanes);
    }
    if (g.residual != nullptr) value += load_some(g.residual + at, vectors[t].live);
    if (g.relu) value = select(value < 0.0f, vf{}, value);  // not the other way: NaN stays
    put(g.output + at, value, vectors[t].live, g.streamed);
  }
}

// Adds the sums of earlier turns, and keeps the result unless this is the last one.
SSVI_INLINE void take_turn(const Stage& s, float* waiting, int count, float* sums) {
  for (int64_t i = 0; i < int64_t{count} * kLanes; i += kLanes) {
    if (!s.first_turn) store(sums + i, load(sums + i) + load(waiting + i));
    if (!s.last_turn) store(waiting + i, load(sums + i));
  }
}

// Outputs [first, first + tile) of one channel and row.
SSVI_INLINE void run_tile(const Stage& s, const float* row, int64_t base_row,
                          int64_t channel, const int32_t* begin, int first,
                          float* waiting) {
  alignas(64) float m[kMaxTile * kLanes], v[kMaxTile * kLanes];
  const Gather& g = *s.gather;
  const int left = s.count - first, count = left < s.tile ? left : s.tile;
  const int64_t base =
      (base_row * s.plan->out_w * s.plan->out_channels + channel) * s.plan->n;
  if (s.other != nullptr && channel + 1 < s.plan->out_channels)  // the next channel's
    for (int t = 0; t < count; ++t)
      prefetch(s.other + base + s.plan->n + s.vectors[first + t].offset);
  const float* inputs = row + int64_t{first} * s.plan->sources * kLanes;
  const Entry *entry = g.entries + begin[0], *end = g.entries + begin[1];
  if (s.weight_sums != nullptr) {
    vf x[kMaxTile];
    for (int t = 0; t < count; ++t) {
      const Vector at = s.vectors[first + t];
      x[t] = load_some(g.x + base + at.offset, at.live);
    }
    s.both[count](inputs, entry, end, x, m, v,
                  s.weight_sums + int64_t{s.plan->sources} * begin[0]);
  } else {
    s.sums[count](inputs, entry, end, m, v);
  }
  if (waiting != nullptr) {
    waiting += int64_t{first} * s.plan->sums * kLanes;
    take_turn(s, waiting, count, m);
    if (s.plan->sums == 2) take_turn(s, waiting + int64_t{count} * kLanes, count, v);
    if (!s.last_turn) return;
  }
  if (g.pass == Pass::kSample) {
    const Pair sums = finish_sample(g, s.vectors + first, count, base, m, v, s.paired);
    float* at = s.moments + 2 * (base_row * s.plan->out_channels + channel);
    at[0] += sums.first, at[1] += sums.second;
  } else {
    finish_others(g, s.vectors + first, count, base, m, v,
                  g.bias == nullptr ? 0.0f : g.bias[channel]);
  }
}

static int tile_size(int count, bool paired, int limit) {
  const int multiple = paired ? kPair : 1;
  if (limit < multiple) return multiple;
  limit -= limit % multiple;
  const int tiles = (count + limit - 1) / limit;
  const int even = (count + tiles - 1) / tiles;
  return (even + multiple - 1) / multiple * multiple;
}

static void run_class(const Stage& s, const GatherTask& task, int c, int u0, int u1,
                      const float* packed) {
  const Plan& plan = *s.plan;
  const Range rows = plan.rows_data[c / plan.col_classes];
  const int low = u0 > rows.low ? u0 : rows.low, high = u1 < rows.high ? u1 : rows.high;
  const int64_t step = plan.row_step * plan.row_stride;
  for (int64_t channel = task.channel_low; channel < task.channel_high; ++channel) {
    const int64_t group = c * plan.out_channels + channel;
    for (int u = low; u < high; ++u) {
      float* waiting = s.waiting == nullptr
                           ? nullptr
                           : s.waiting + (group * plan.block + u - u0) * plan.row();
      for (int first = 0; first < s.count; first += s.tile)
        run_tile(s, packed + (u - u0) * step, u * rows.step + rows.first, channel,
                 s.begin + group, first, waiting);
    }
  }
}

// All classes of one block of rows, with the channels that are packed.
static void run_classes(Stage& s, const GatherTask& task, Corner corner, int u0, int u1,
                        Vector* vectors, const float* packed) {
  const Plan& plan = *s.plan;
  for (int c = 0; c < plan.row_classes * plan.col_classes; ++c) {
    const Range cols = plan.cols_data[c % plan.col_classes];
    s.vectors = vectors;
    s.count = describe_row(plan, cols, corner.image, corner.v0,
                           corner.v0 + plan.columns, vectors);
    if (s.count == 0) continue;
    const bool four_sums = s.weight_sums != nullptr && plan.sources == 2;
    s.tile = tile_size(s.count, s.paired, four_sums ? kMaxBothTile : kMaxTile);
    const int skipped = cols.low > corner.v0 ? cols.low - corner.v0 : 0;
    const int64_t shift = int64_t{skipped} * plan.images * plan.sources;
    run_class(s, task, c, u0, u1, packed + shift * kLanes);
  }
}

static void gather_block(const Gather& g, const GatherTask& task, int64_t block,
                         float* scratch) {
  const Plan& plan = *g.plan;
  const int64_t column_blocks = plan.column_blocks(), turns = plan.turns();
  const Corner corner{
      block / column_blocks * plan.images * kLanes,
      plan.v_low + static_cast<int>(block % column_blocks) * plan.columns};
  float* packed = scratch;
  float* waiting = packed + plan.channel_block * plan.channel_stride;
  Vector* vectors = reinterpret_cast<Vector*>(waiting + plan.waiting());
  Stage s{};
  s.gather = &g, s.plan = &plan, s.weight_sums = task.sums;
  s.waiting = turns == 1 ? nullptr : waiting;
  if (g.pass == Pass::kSample) s.moments = g.moments + block * plan.moments();
  s.other = g.pass == Pass::kMean ? g.residual : g.x;
  s.both = plan.sources == 2 ? kBothTables.sampled : kBothTables.plain;
  s.paired = g.pass == Pass::kSample && plan.n % 32 == 0 &&
             (g.key[2] | g.key[3]) % 32 == 0 && plan.images % kPair == 0 &&
             kPair <= kMaxTile;
  s.sums = g.pass == Pass::kSample           ? kTables.sample
           : g.pass == Pass::kSampleGradient ? kTables.gradient
                                             : kTables.mean;
  int before = 0;
  for (int u0 = task.u_low; u0 < task.u_high; u0 += plan.block) {
    const int left = task.u_high - u0, count = left < plan.block ? left : plan.block;
    for (int64_t turn = 0; turn < turns; ++turn) {
      const int64_t c0 = turn * plan.channel_block, c1 = c0 + plan.channel_block;
      s.begin = g.begin + turn * plan.groups();
      s.first_turn = turn == 0, s.last_turn = turn == turns - 1;
      advance(plan, {g.input, g.slope, g.norm}, corner, c0,
              c1 < plan.in_channels ? c1 : plan.in_channels, u0, before, count, packed);
      run_classes(s, task, corner, u0, u0 + count, vectors, packed);
    }
    before = turns == 1 ? count : 0;  // with several the next finds another's rows
  }
}

static void gather(const Gather& g, const GatherTask& task, float* scratch) {
  const Plan& plan = *g.plan;
  if (task.sums != nullptr) {
    for (int64_t group = 0; group < plan.turns() * plan.groups();
         group += plan.out_channels) {
      const int64_t from = g.begin[group + task.channel_low];
      const int64_t to = g.begin[group + task.channel_high];
      __builtin_memset(task.sums + plan.sources * from, 0,
                       sizeof(float) * plan.sources * (to - from));
    }
  }
  for (int64_t block = task.block_low; block < task.block_high; ++block)
    gather_block(g, task, block, scratch);
  stream_end();
}
