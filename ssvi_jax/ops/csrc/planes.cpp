#include "planes.h"

#include <algorithm>

#include "scratch.h"

namespace ssvi {
namespace {

// The first is the caller's while a product lasts, the second each thread's.
thread_local Scratch shared_scratch, own_scratch;

// Pixels in the vectors of the widest instruction set: all sets take the same side.
constexpr int64_t kWidest = 16;
// Vectors at the end of a plane read beyond it.
constexpr int64_t kSlack = 64;
constexpr int64_t kTasksPerThread = 4;

int64_t up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Where the input of a weight lies, from that of the first output.
int64_t offset_of(const Planes& planes, int64_t ci, int64_t row, int64_t column) {
  const Shape& s = planes.shape;
  const int64_t copy = planes.is_flat ? column : column % s.sw;
  const int64_t shift = planes.is_flat ? 0 : column / s.sw;
  const int64_t plane = row % s.sh * planes.column_copies + copy;
  return ci * planes.channel + plane * planes.plane() + row / s.sh * planes.width +
         shift;
}

bool is_as_it_is(const Shape& s) {
  return s.kh == 1 && s.kw == 1 && s.p == s.h && s.q == s.w && s.top == 0 &&
         s.left == 0;
}

}  // namespace

Planes planes_of(const Shape& s) {
  Planes planes{};
  planes.shape = s;
  const int64_t by_rows = s.p * up(s.q, kWidest), at_once = up(s.p * s.q, kWidest);
  planes.is_flat = 8 * by_rows > 9 * at_once;
  planes.rows = planes.is_flat ? 1 : s.p;
  planes.columns = planes.is_flat ? s.p * s.q : s.q;
  planes.row_phases = std::min(s.sh, s.kh);
  planes.column_copies = planes.is_flat ? s.kw : std::min(s.sw, s.kw);
  planes.height = s.p + (s.kh - 1) / s.sh;
  planes.width = s.q + (planes.is_flat ? 0 : (s.kw - 1) / s.sw);
  const int64_t floats = planes.row_phases * planes.column_copies * planes.plane();
  // The last row is written in whole vectors too.
  planes.channel = is_as_it_is(s)
                       ? floats
                       : up(floats - planes.width, kWidest) + up(planes.width, kWidest);
  return planes;
}

double packed_floats(const Planes& planes) {
  const Shape& s = planes.shape;
  const double each = double(planes.row_phases) * double(planes.column_copies) *
                      double(planes.height) * double(up(planes.width, kWidest));
  return double(s.ci) * (each + 2 * kWidest) + kSlack;
}

PlaneOrder order_planes(int64_t all, int64_t co, const int32_t* index, int64_t size) {
  PlaneOrder order;
  order.begin.assign(co + 1, 0);
  for (int64_t k = 0; k < size; ++k) {
    if (index[k] < 0 || index[k] >= all) throw BadIndex();
    ++order.begin[index[k] % co + 1];
  }
  for (int64_t c = 0; c < co; ++c) order.begin[c + 1] += order.begin[c];
  std::vector<int32_t> next(order.begin.begin(), order.begin.end() - 1);
  order.rank.reserve(size);
  for (int64_t k = 0; k < size; ++k) order.rank.push_back(next[index[k] % co]++);
  return order;
}

std::vector<PlaneMove> moves_of(const Planes& planes) {
  const Shape& s = planes.shape;
  std::vector<PlaneMove> moves;
  if (is_as_it_is(s)) return moves;
  const int64_t spread = s.sw == 2 ? 2 : 1;
  int64_t to = 0;
  for (int64_t phase = 0; phase < planes.row_phases; ++phase)
    for (int64_t copy = 0; copy < planes.column_copies; ++copy)
      for (int64_t r = 0; r < planes.height; ++r, to += planes.width)
        for (int64_t j = 0; j < planes.width; j += kWidest) {
          const int64_t row = r * s.sh + phase - s.top;
          const int64_t column = copy - s.left + j * s.sw;
          uint32_t lanes = 0;
          for (int64_t i = 0; i < std::min(kWidest, planes.width - j); ++i) {
            const int64_t at = column + i * s.sw;
            if (row >= 0 && row < s.h && at >= 0 && at < s.w) lanes |= 1u << i * spread;
          }
          // Where nothing is read the place must only exist.
          const int64_t from = lanes == 0 ? 0 : row * s.w + column;
          moves.push_back(
              {static_cast<int32_t>(from), static_cast<int32_t>(to + j), lanes});
        }
  return moves;
}

std::vector<int32_t> list_planes(const Planes& planes, const int32_t* index,
                                 const PlaneOrder& order) {
  const Shape& s = planes.shape;
  std::vector<int32_t> offsets(order.rank.size());
  for (size_t k = 0; k < order.rank.size(); ++k) {
    const int64_t line = index[k] / s.co, ci = line % s.ci, tap = line / s.ci;
    offsets[order.rank[k]] =
        static_cast<int32_t>(offset_of(planes, ci, tap / s.kw, tap % s.kw));
  }
  return offsets;
}

void mean_of_planes(const Machine& machine, const Planes& planes,
                    const std::vector<PlaneMove>& moves, const PlaneWeights& weights,
                    int64_t n, const float* x, const PlaneEpilogue& epilogue,
                    float* y) {
  const Shape& s = planes.shape;
  if (n * s.co * s.p * s.q == 0) return;
  const auto size = static_cast<size_t>(packed_floats(planes));
  const int64_t threads = machine.pool.threads;
  const PlaneProduct product{weights.begin,  weights.offset, weights.values,
                             nullptr,        planes.width,   planes.rows,
                             planes.columns, epilogue.scale, epilogue.bias,
                             nullptr,        epilogue.relu,  nullptr};
  const auto at_image = [&](int64_t i, const float* packed) {
    PlaneProduct image = product;
    image.input = packed;
    image.output = y + i * s.co * s.p * s.q;
    if (epilogue.residual != nullptr)
      image.residual = epilogue.residual + i * s.co * s.p * s.q;
    return image;
  };
  const auto pack = [&](int64_t i, int64_t low, int64_t high, float* packed) {
    const float* image = x + i * s.ci * s.h * s.w;
    if (moves.empty())
      std::copy(image + low * s.h * s.w, image + high * s.h * s.w,
                packed + low * planes.channel);
    else
      machine.isa->pack_planes({moves.data(), moves.data() + moves.size(), s.sw, image,
                                packed, s.h * s.w, planes.channel},
                               low, high);
  };
  if (n >= 2 * threads) {
    parallel_for(machine.pool, n, [&](int64_t i) {
      float* packed = own_scratch.get<float>(size);
      pack(i, 0, s.ci, packed);
      machine.isa->planes(at_image(i, packed), {0, planes.rows, 0, s.co});
    });
    return;
  }
  float* packed = shared_scratch.get<float>(size);
  const int64_t want = threads > 1 ? threads * kTasksPerThread : 1;
  const int64_t packs = std::min(want, s.ci);
  const int64_t row_parts = std::clamp<int64_t>(planes.rows / 4, 1, want);
  const int64_t channel_parts =
      std::clamp<int64_t>((want + row_parts - 1) / row_parts, 1, s.co);
  for (int64_t i = 0; i < n; ++i) {
    parallel_for(machine.pool, packs, [&](int64_t k) {
      pack(i, part<int64_t>(0, s.ci, k, packs), part<int64_t>(0, s.ci, k + 1, packs),
           packed);
    });
    const PlaneProduct image = at_image(i, packed);
    parallel_for(machine.pool, row_parts * channel_parts, [&](int64_t k) {
      const int64_t r = k / channel_parts, c = k % channel_parts;
      machine.isa->planes(image, {part<int64_t>(0, planes.rows, r, row_parts),
                                  part<int64_t>(0, planes.rows, r + 1, row_parts),
                                  part<int64_t>(0, s.co, c, channel_parts),
                                  part<int64_t>(0, s.co, c + 1, channel_parts)});
    });
  }
}

}  // namespace ssvi
