#include "passes.h"

#include <algorithm>
#include <array>
#include <vector>

#include "scratch.h"

namespace ssvi {
namespace {

// The first and the last are the caller's while a pass lasts, the second is of each
// thread that works on its tasks.
thread_local Scratch call_scratch, task_scratch, sums_scratch;

constexpr int64_t kTasksPerThread = 4;
// What the passes cost, fitted like the constants of plan.cpp.
constexpr Work kMeanWork{1, 0.25, 0.8}, kSampleWork{3, 0.1, 0.6}, kWeightWork{1, 0, 0},
    kBothWork{3, 0.9, 3.0}, kPlainBothWork{1, 0.95, 3.8};
// Outputs beyond this are written around the cache.
constexpr int64_t kStreamedBytes = int64_t{1} << 20;
// Sums of weight gradients are kept apart in this many parts at most.
constexpr int64_t kMaxParts = 64;
constexpr int64_t kMaxPartBytes = int64_t{1} << 25;

// A list and its memory.
struct Lists {
  std::vector<int32_t> begin;
  List list;
  Lists(const Machine& m, const Plan& plan, const Shape& shape, bool transposed,
        const Kernel& k, bool ranked) {
    begin.resize(plan.all_groups() + 1);
    const int64_t size = std::max<int64_t>(k.size, 1);
    auto* memory = call_scratch.get<char>(size * (sizeof(Entry) + sizeof(int32_t)));
    auto* entries = reinterpret_cast<Entry*>(memory);
    auto* rank = reinterpret_cast<int32_t*>(entries + size);
    list = {begin.data(), entries, ranked ? rank : nullptr, k.size};
    make_list(plan, shape, transposed, k, list, m.pool);
  }
};

void attach(Gather& g, const Plan& plan, const Entry* entries, const int32_t* begin) {
  g.plan = &plan;
  g.entries = entries;
  g.begin = begin;
  const int64_t bytes = 4 * plan.out_channels * plan.out_h * plan.out_w * plan.n;
  // Streaming needs whole vectors at multiples of their size.
  const bool aligned = plan.n % plan.lanes == 0 &&
                       (reinterpret_cast<uintptr_t>(g.output) |
                        reinterpret_cast<uintptr_t>(g.slope_output)) %
                               (4 * plan.lanes) ==
                           0;
  g.streamed = aligned && bytes > kStreamedBytes;
}

void run(const Machine& machine, const Plan& plan, const Gather& g) {
  const int64_t blocks = plan.image_blocks() * plan.column_blocks();
  const int64_t rows = plan.u_high - plan.u_low;
  const int64_t threads = machine.pool.threads;
  const int64_t want = threads > 1 ? threads * kTasksPerThread : 1;
  const int64_t max_row_parts = std::max<int64_t>(1, rows / (2 * plan.block));
  const int64_t row_parts =
      std::clamp<int64_t>((want + blocks - 1) / blocks, 1, max_row_parts);
  const int64_t base = blocks * row_parts;
  // More parts of the channels pack the same input again.
  const int64_t channel_parts =
      base >= machine.pool.threads
          ? 1
          : std::min<int64_t>(2 * machine.pool.threads / base + 1, plan.out_channels);
  parallel_for(machine.pool, base * channel_parts, [&](int64_t i) {
    const int64_t c = i % channel_parts, r = i / channel_parts % row_parts;
    const int64_t block = i / channel_parts / row_parts;
    GatherTask task{block,
                    block + 1,
                    part(plan.u_low, plan.u_high, r, row_parts),
                    part(plan.u_low, plan.u_high, r + 1, row_parts),
                    part<int64_t>(0, plan.out_channels, c, channel_parts),
                    part<int64_t>(0, plan.out_channels, c + 1, channel_parts),
                    nullptr};
    machine.isa->gather(g, task, task_scratch.get<float>(gather_scratch(plan)));
  });
}

// Sums over all positions, in parts that are added in the end. The parts depend on
// nothing but the shapes, so neither does the order of the sums.
class SumParts {
 public:
  struct Share {
    int64_t block_low, block_high;
    int u_low, u_high;
    int64_t channel_low, channel_high;
    float* sums;
  };

  // `width` numbers for each of `size` non-zeros.
  SumParts(const Plan& plan, int64_t size, int64_t width, int64_t threads)
      : size_(size), width_(width) {
    blocks_ = plan.image_blocks() * plan.column_blocks();
    const int64_t memory = kMaxPartBytes / std::max<int64_t>(4 * width * size, 1);
    const int64_t limit = std::clamp<int64_t>(memory, 1, kMaxParts);
    block_parts_ = std::min(blocks_, limit);
    const int64_t rows = plan.u_high - plan.u_low;
    const int64_t max_row_parts = std::max<int64_t>(1, rows / (2 * plan.block));
    row_parts_ = std::clamp<int64_t>(
        std::min((16 + block_parts_ - 1) / block_parts_, limit / block_parts_), 1,
        max_row_parts);
    parts_ = block_parts_ * row_parts_;
    // Channels share no sum, so into how many parts they are cut may differ.
    channel_parts_ = parts_ >= threads ? 1
                                       : std::min<int64_t>(2 * threads / parts_ + 1,
                                                           plan.out_channels);
    sums_ = sums_scratch.get<float>(std::max<int64_t>(1, parts_ * width * size));
  }

  // Calls body(share) for all shares, in parallel.
  template <typename Body>
  void run(const Machine& machine, const Plan& plan, Body&& body) const {
    parallel_for(machine.pool, parts_ * channel_parts_, [&](int64_t i) {
      const int64_t c = i % channel_parts_, p = i / channel_parts_;
      const int64_t r = p % row_parts_, block = p / row_parts_;
      body(Share{part<int64_t>(0, blocks_, block, block_parts_),
                 part<int64_t>(0, blocks_, block + 1, block_parts_),
                 part(plan.u_low, plan.u_high, r, row_parts_),
                 part(plan.u_low, plan.u_high, r + 1, row_parts_),
                 part<int64_t>(0, plan.out_channels, c, channel_parts_),
                 part<int64_t>(0, plan.out_channels, c + 1, channel_parts_),
                 sums_ + p * width_ * size_});
    });
  }

  // Adds the parts; `second` is not written where there is one number a non-zero.
  void total(const Machine& machine, const List& list, float* first,
             float* second) const {
    const int64_t chunks = size_ > 16384 ? 8 : 1;
    parallel_for(machine.pool, chunks, [&](int64_t chunk) {
      for (int64_t i = size_ * chunk / chunks; i < size_ * (chunk + 1) / chunks; ++i) {
        float sum = 0.0f, sum2 = 0.0f;
        for (int64_t p = 0; p < parts_; ++p) {
          const float* at = sums_ + (p * size_ + i) * width_;
          sum += at[0];
          if (width_ == 2) sum2 += at[1];
        }
        first[list.rank[i]] = sum;
        if (width_ == 2) second[list.rank[i]] = sum2;
      }
    });
  }

 private:
  int64_t size_, width_, blocks_, block_parts_, row_parts_, parts_, channel_parts_;
  float* sums_;
};

// Where the groups begin in the table of a list for `mean`, after its cut.
constexpr int64_t kTableHeader = 4;

Plan mean_plan(const Machine& machine, const Shape& shape, int64_t size) {
  Plan plan = forward_plan(shape);
  const Isa& isa = *machine.isa;
  cut(plan, {isa.lanes, 1, 1, size, false, false, isa.tile, kMeanWork});
  return plan;
}

std::array<int32_t, kTableHeader> header(const Plan& plan) {
  return {plan.lanes * plan.images, plan.columns, plan.block,
          static_cast<int32_t>(plan.channel_block)};
}

// Sums over blocks and rows, in this order whatever the threads did.
void total_moments(const Shape& shape, const float* moments, int64_t blocks, float* sum,
                   float* squares) {
  std::vector<double> totals(2 * shape.co, 0.0);
  for (int64_t row = 0; row < blocks * shape.p; ++row)
    for (int64_t i = 0; i < 2 * shape.co; ++i)
      totals[i] += static_cast<double>(moments[row * 2 * shape.co + i]);
  const double count = static_cast<double>(shape.n * shape.p * shape.q);
  for (int64_t c = 0; c < shape.co; ++c) {
    const double total = totals[2 * c];
    sum[c] = static_cast<float>(total);
    squares[c] = static_cast<float>(totals[2 * c + 1] - total * total / count);
  }
}

bool empty(const Shape& s) { return s.n == 0 || s.co == 0 || s.p == 0 || s.q == 0; }

}  // namespace

void sample(const Machine& machine, const Shape& shape, const Kernel& kernel,
            const float* x, const uint32_t* key, float* y, float* slope, float* sum,
            float* squares) {
  if (empty(shape)) {
    std::fill_n(sum, shape.co, 0.0f);
    std::fill_n(squares, shape.co, 0.0f);
    return;
  }
  Plan plan = forward_plan(shape);
  const Isa& isa = *machine.isa;
  const bool paired = shape.n % 32 == 0 && isa.lanes >= 8;
  const int tile = paired ? isa.tile - isa.tile % (32 / isa.lanes) : isa.tile;
  cut(plan, {isa.lanes, 1, 2, kernel.size, paired, false, tile, kSampleWork});
  const Lists lists(machine, plan, shape, false, kernel, false);
  Gather g{};
  g.pass = Pass::kSample;
  g.input = x, g.key = key, g.output = y, g.slope_output = slope;
  const int64_t blocks = plan.image_blocks() * plan.column_blocks();
  g.moments = sums_scratch.get<float>(blocks * plan.moments());
  std::fill_n(g.moments, blocks * plan.moments(), 0.0f);
  attach(g, plan, lists.list.entries, lists.list.begin);
  run(machine, plan, g);
  total_moments(shape, g.moments, blocks, sum, squares);
}

int64_t mean_table(const Shape& shape) {
  return kTableHeader + kMaxTurns * shape.co + 1;
}

void list_mean(const Machine& machine, const Shape& shape, const Kernel& kernel,
               Entry* entries, int32_t* table) {
  std::fill_n(table, mean_table(shape), 0);
  if (empty(shape)) return;
  const Plan plan = mean_plan(machine, shape, kernel.size);
  const auto cut = header(plan);
  std::copy(cut.begin(), cut.end(), table);
  make_list(plan, shape, false, kernel,
            {table + kTableHeader, entries, nullptr, kernel.size}, machine.pool);
}

void mean(const Machine& machine, const Shape& shape, const Entry* entries,
          const int32_t* table, int64_t size, const float* x, const Epilogue& epilogue,
          float* y) {
  if (empty(shape)) return;
  const Plan plan = mean_plan(machine, shape, size);
  const auto cut = header(plan);
  if (!std::equal(cut.begin(), cut.end(), table)) throw BadList();
  Gather g{};
  g.pass = Pass::kMean;
  g.input = x, g.output = y;
  g.bias = epilogue.bias, g.residual = epilogue.residual, g.relu = epilogue.relu;
  attach(g, plan, entries, table + kTableHeader);
  run(machine, plan, g);
}

void input_gradient(const Machine& machine, const Shape& shape, const Kernel& kernel,
                    const float* g, const float* slope, const NormGradient& norm,
                    const float* x, float* dx) {
  if (shape.n * shape.ci * shape.h * shape.w == 0) return;
  Plan plan = input_gradient_plan(shape);
  const Isa& isa = *machine.isa;
  const int sources = slope == nullptr ? 1 : 2;
  cut(plan,
      {isa.lanes, sources, sources, kernel.size, false, false, isa.tile, kMeanWork});
  const Lists lists(machine, plan, shape, true, kernel, false);
  Gather gather{};
  gather.pass = slope == nullptr ? Pass::kMeanGradient : Pass::kSampleGradient;
  gather.input = g, gather.slope = slope, gather.norm = norm;
  gather.x = x, gather.output = dx;
  attach(gather, plan, lists.list.entries, lists.list.begin);
  run(machine, plan, gather);
}

void weight_gradient(const Machine& machine, const Shape& shape, const int32_t* index,
                     int64_t size, const float* x, const float* g, const float* slope,
                     const NormGradient& norm, float* dmean, float* dvariance) {
  const bool sampled = slope != nullptr;
  if (empty(shape)) {
    std::fill_n(dmean, size, 0.0f);
    if (sampled) std::fill_n(dvariance, size, 0.0f);
    return;
  }
  Plan plan = forward_plan(shape);
  cut(plan, {machine.isa->lanes, 1, 1, size, false, true, 0, kWeightWork});
  const Lists lists(machine, plan, shape, false, {index, nullptr, nullptr, size}, true);
  const SumParts parts(plan, size, sampled ? 2 : 1, machine.pool.threads);
  Weights w{&plan, lists.list.entries, lists.list.begin, x, g, slope, norm};
  parts.run(machine, plan, [&](const SumParts::Share& share) {
    WeightsTask task{share.block_low,   share.block_high,   share.u_low, share.u_high,
                     share.channel_low, share.channel_high, share.sums};
    float* scratch = task_scratch.get<float>(weights_scratch(plan, sampled));
    machine.isa->weights(w, task, scratch);
  });
  parts.total(machine, lists.list, dmean, dvariance);
}

void gradients(const Machine& machine, const Shape& shape, const Kernel& kernel,
               const float* g, const float* slope, const NormGradient& norm,
               const float* x, float* dx, float* dmean, float* dvariance) {
  const bool sampled = slope != nullptr;
  if (empty(shape) || shape.n * shape.ci * shape.h * shape.w == 0) {
    input_gradient(machine, shape, kernel, g, slope, norm, x, dx);
    return weight_gradient(machine, shape, kernel.index, kernel.size, x, g, slope, norm,
                           dmean, dvariance);
  }
  Plan plan = input_gradient_plan(shape);
  const Isa& isa = *machine.isa;
  const int sources = sampled ? 2 : 1;
  cut(plan, {isa.lanes, sources, sources, kernel.size, false, false,
             sampled ? isa.both_tile : isa.tile,
             sampled ? kBothWork : kPlainBothWork});
  const Lists lists(machine, plan, shape, true, kernel, true);
  Gather gather{};
  gather.pass = sampled ? Pass::kSampleGradient : Pass::kMeanGradient;
  gather.input = g, gather.slope = slope, gather.norm = norm;
  gather.x = x, gather.output = dx;
  attach(gather, plan, lists.list.entries, lists.list.begin);
  const SumParts parts(plan, kernel.size, sampled ? 2 : 1, machine.pool.threads);
  parts.run(machine, plan, [&](const SumParts::Share& share) {
    GatherTask task{share.block_low,   share.block_high,   share.u_low, share.u_high,
                    share.channel_low, share.channel_high, share.sums};
    float* scratch = task_scratch.get<float>(gather_scratch(plan));
    machine.isa->gather(gather, task, scratch);
  });
  parts.total(machine, lists.list, dmean, dvariance);
}

void comoment(const Machine& machine, const Moments& moments, int64_t pixels, float* sum,
              float* product) {
  // A fixed number of parts: the order of the sums does not depend on the threads.
  const int64_t channels = moments.channels, width = 3 * channels;
  const int64_t parts = std::clamp<int64_t>(pixels, 1, 16);
  double* sums = sums_scratch.get<double>(std::max<int64_t>(1, parts * width));
  std::fill_n(sums, parts * width, 0.0);
  parallel_for(machine.pool, parts, [&](int64_t i) {
    const int64_t low = pixels * i / parts, high = pixels * (i + 1) / parts;
    float* scratch = task_scratch.get<float>(
        std::max<int64_t>(1, width * machine.isa->lanes));
    machine.isa->add_sums(moments, low, high - low, sums + i * width, scratch);
  });
  const double count = static_cast<double>(pixels * moments.n);
  for (int64_t c = 0; c < channels; ++c) {
    double total[3] = {};
    for (int64_t i = 0; i < parts; ++i)
      for (int k = 0; k < 3; ++k) total[k] += sums[i * width + 3 * c + k];
    sum[c] = static_cast<float>(total[0]);
    const bool centered = moments.center != nullptr || count == 0;
    const double shared = centered ? 0.0 : total[0] * total[1] / count;
    product[c] = static_cast<float>(total[2] - shared);
  }
}

}  // namespace ssvi
