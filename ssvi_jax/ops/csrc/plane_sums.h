// The product of planes: see planes.h. Included by conv_kernels.h.

SSVI_INLINE vf move_lanes(const float* x, int64_t stride, uint32_t lanes) {
  if (stride == 1) return load_lanes(x, lanes);
  if (stride == 2)
    return every_second(load_lanes(x, lanes), load_lanes(x + kLanes, lanes >> kLanes));
  alignas(64) float whole[kLanes] = {};
  for (int i = 0; i < kLanes; ++i)
    if (lanes >> i & 1) whole[i] = x[i * stride];
  return load(whole);
}

static void pack_planes(const PlanePack& p, int64_t low, int64_t high) {
  const int64_t spread = p.stride == 2 ? 2 : 1;
  for (int64_t c = low; c < high; ++c) {
    const float* x = p.x + c * p.x_channel;
    float* out = p.out + c * p.out_channel;
    for (const PlaneMove* move = p.moves; move != p.end; ++move) {
      for (int i = 0; i < 16; i += kLanes)
        store_any(out + move->to + i, move_lanes(x + move->from + i * p.stride,
                                                 p.stride, move->lanes >> i * spread));
    }
  }
}

constexpr int kPlaneTile = 8, kPlaneColumns = 4;  // vectors of outputs at once

// Sums of a tile of `rows` × `columns` vectors, in so many chains: one chain of
// additions would wait for each of its links where a tile is small. Their number
// depends on the plane only, not on how it is cut, so that a sum does not either.
template <int rows, int columns, int chains>
static void plane_sums(const float* input, int64_t width, const int32_t* offset,
                       const float* value, int64_t count, float* sums) {
  vf sum[chains][rows][columns] = {};
  const auto add = [&](int64_t k, vf(&to)[rows][columns])
                       __attribute__((always_inline)) {
                         const float* x = input + offset[k];
                         const vf weight = splat(value[k]);
#pragma GCC unroll 16
                         for (int r = 0; r < rows; ++r, x += width) {
#pragma GCC unroll 16
                           for (int c = 0; c < columns; ++c)
                             to[r][c] += weight * load_any(x + c * kLanes);
                         }
                       };
  int64_t k = 0;
  for (; k + chains <= count; k += chains) {
#pragma GCC unroll 16
    for (int t = 0; t < chains; ++t) add(k + t, sum[t]);
  }
  for (; k < count; ++k) add(k, sum[0]);
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
    for (int c = 0; c < columns; ++c) {
      vf total = sum[0][r][c];
#pragma GCC unroll 16
      for (int t = 1; t < chains; ++t) total += sum[t][r][c];
      store(sums + (r * columns + c) * kLanes, total);
    }
  }
}

using PlaneSums = void (*)(const float*, int64_t, const int32_t*, const float*, int64_t,
                           float*);

// Of one row there may be fewer vectors than chains hide; of more there is one chain.
struct PlaneTables {
  PlaneSums row[kPlaneColumns + 1], tile[kPlaneTile + 1][kPlaneColumns + 1];
  template <int rows, int columns>
  constexpr void fill() {
    if constexpr (rows * columns <= kPlaneTile)
      tile[rows][columns] = plane_sums<rows, columns, 1>;
    if constexpr (rows > 1)
      fill<rows - 1, columns>();
    else if constexpr (columns > 1)
      fill<kPlaneTile, columns - 1>();
  }
  constexpr PlaneTables()
      : row{nullptr, plane_sums<1, 1, 2>, plane_sums<1, 2, 2>, plane_sums<1, 3, 2>,
            plane_sums<1, 4, 2>},
        tile() {
    fill<kPlaneTile, kPlaneColumns>();
  }
  PlaneSums of(int rows, int columns, int64_t all_rows, int64_t all_columns) const {
    if (all_rows > 1) return tile[rows][columns];
    if (all_columns == 1) return plane_sums<1, 1, 8>;
    if (all_columns == 2) return plane_sums<1, 2, 4>;
    return row[columns];
  }
};
static constexpr PlaneTables kPlaneTables;

// Outputs of a channel: `rows` rows from `row` on, `vectors` vectors from `column` on.
static void finish_planes(const PlaneProduct& p, int64_t channel, int64_t row, int rows,
                          int64_t column, int vectors, const float* sums) {
  const vf scale = splat(p.scale == nullptr ? 1.0f : p.scale[channel]);
  const vf bias = splat(p.bias == nullptr ? 0.0f : p.bias[channel]);
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < vectors; ++c, sums += kLanes) {
      const int64_t first = column + c * kLanes, left = p.columns - first;
      const int live = left < kLanes ? static_cast<int>(left) : kLanes;
      const int64_t at = (channel * p.rows + row + r) * p.columns + first;
      vf value = load(sums) * scale + bias;
      if (p.residual != nullptr) value += load_some(p.residual + at, live);
      if (p.relu) value = select(value < 0.0f, vf{}, value);  // NaN stays
      store_some(p.output + at, value, live);
    }
  }
}

static void planes(const PlaneProduct& p, const PlaneTask& task) {
  alignas(64) float sums[kPlaneTile * kLanes];
  const int64_t vectors = (p.columns + kLanes - 1) / kLanes;
  const int64_t turns = (vectors + kPlaneColumns - 1) / kPlaneColumns;
  for (int64_t turn = 0; turn < turns; ++turn) {
    const int64_t v0 = vectors * turn / turns, v1 = vectors * (turn + 1) / turns;
    const int columns = static_cast<int>(v1 - v0), most = kPlaneTile / columns;
    for (int64_t row = task.row_low; row < task.row_high; row += most) {
      const int64_t left = task.row_high - row;
      const int rows = left < most ? static_cast<int>(left) : most;
      const float* input = p.input + row * p.width + v0 * kLanes;
      const PlaneSums add = kPlaneTables.of(rows, columns, p.rows, vectors);
      for (int64_t c = task.channel_low; c < task.channel_high; ++c) {
        const int32_t first = p.begin[c];
        add(input, p.width, p.offset + first, p.value + first, p.begin[c + 1] - first,
            sums);
        finish_planes(p, c, row, rows, v0 * kLanes, columns, sums);
      }
    }
  }
}
