#include "passes.h"

#include <algorithm>
#include <cstring>

#include "scratch.h"

namespace ssvi {
namespace {

// The first and the last are the caller's while a pass lasts, the second is of each
// thread that works on its tasks.
thread_local Scratch call_scratch, task_scratch, sums_scratch;

constexpr int64_t kTasksPerThread = 4;
// Outputs beyond this are written around the cache.
constexpr int64_t kStreamedBytes = int64_t{1} << 20;
// Sums of weight gradients are kept apart in this many parts at most.
constexpr int64_t kMaxParts = 64;
constexpr int64_t kMaxPartBytes = int64_t{1} << 25;

// A list and its memory.
struct Lists {
  List list;
  Lists(const Machine& m, const Plan& plan, const Shape& shape, bool transposed,
        const Kernel& k, bool ranked) {
    const int64_t size = std::max<int64_t>(k.size, 1);
    auto* memory = call_scratch.get<char>(size * (sizeof(Entry) + sizeof(int32_t)));
    auto* entries = reinterpret_cast<Entry*>(memory);
    auto* rank = reinterpret_cast<int32_t*>(entries + size);
    list = make_list(plan, shape, transposed, k.index, k.mean, k.sigma, k.size, entries,
                     ranked ? rank : nullptr, m.pool);
  }
};

// Part i of `parts` of [low, high).
template <typename T>
T part(T low, T high, int64_t i, int64_t parts) {
  return static_cast<T>(low + (high - low) * i / parts);
}

void run(const Machine& machine, const Plan& plan, const Lists& lists, Gather g) {
  const int64_t column_blocks = plan.column_blocks();
  const int64_t blocks = plan.image_blocks() * column_blocks;
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
  g.plan = &plan;
  g.entries = lists.list.entries;
  g.begin = lists.list.begin.data();
  const int64_t bytes = 4 * plan.out_channels * plan.out_h * plan.out_w * plan.n;
  // Streaming needs whole vectors at multiples of their size.
  const bool aligned = plan.n % plan.lanes == 0 &&
                       (reinterpret_cast<uintptr_t>(g.output) |
                        reinterpret_cast<uintptr_t>(g.slope_output)) %
                               (4 * plan.lanes) ==
                           0;
  g.streamed = aligned && bytes > kStreamedBytes;
  parallel_for(machine.pool, base * channel_parts, [&](int64_t i) {
    const int64_t c = i % channel_parts, r = i / channel_parts % row_parts;
    const int64_t block = i / channel_parts / row_parts;
    GatherTask task{block / column_blocks,
                    static_cast<int>(block % column_blocks),
                    part(plan.u_low, plan.u_high, r, row_parts),
                    part(plan.u_low, plan.u_high, r + 1, row_parts),
                    part<int64_t>(0, plan.out_channels, c, channel_parts),
                    part<int64_t>(0, plan.out_channels, c + 1, channel_parts)};
    machine.isa->gather(g, task, task_scratch.get<float>(gather_scratch(plan)));
  });
}

bool empty(const Shape& s) { return s.n == 0 || s.co == 0 || s.p == 0 || s.q == 0; }

}  // namespace

const Isa* find_isa(const char* name) {
  const bool any = name[0] == '\0';
#if defined(__x86_64__)
  const bool avx512 = __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl");
  if (avx512 && (any || std::strcmp(name, "avx512") == 0)) return &kAvx512;
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && (any || std::strcmp(name, "avx2") == 0)) return &kAvx2;
#endif
  if (any || std::strcmp(name, "generic") == 0) return &kGeneric;
  return nullptr;
}

void sample(const Machine& machine, const Shape& shape, const Kernel& kernel,
            const float* x, const uint32_t* key, float* y, float* slope) {
  if (empty(shape)) return;
  Plan plan = forward_plan(shape);
  const int lanes = machine.isa->lanes;
  cut(plan, {lanes, 1, kernel.size, shape.n % 32 == 0 && lanes >= 8, false});
  const Lists lists(machine, plan, shape, false, kernel, false);
  Gather g{};
  g.pass = Pass::kSample;
  g.input = x, g.key = key, g.output = y, g.slope_output = slope;
  run(machine, plan, lists, g);
}

void mean(const Machine& machine, const Shape& shape, const Kernel& kernel,
          const float* x, const Epilogue& epilogue, float* y) {
  if (empty(shape)) return;
  Plan plan = forward_plan(shape);
  cut(plan, {machine.isa->lanes, 1, kernel.size, false, false});
  const Lists lists(machine, plan, shape, false, kernel, false);
  Gather g{};
  g.pass = Pass::kMean;
  g.input = x, g.output = y;
  g.bias = epilogue.bias, g.residual = epilogue.residual, g.relu = epilogue.relu;
  run(machine, plan, lists, g);
}

void input_gradient(const Machine& machine, const Shape& shape, const Kernel& kernel,
                    const float* g, const float* slope, const float* x, float* dx) {
  if (shape.n * shape.ci * shape.h * shape.w == 0) return;
  Plan plan = input_gradient_plan(shape);
  cut(plan, {machine.isa->lanes, slope == nullptr ? 1 : 2, kernel.size, false, false});
  const Lists lists(machine, plan, shape, true, kernel, false);
  Gather gather{};
  gather.pass = slope == nullptr ? Pass::kMeanGradient : Pass::kSampleGradient;
  gather.input = g, gather.slope = slope, gather.x = x, gather.output = dx;
  run(machine, plan, lists, gather);
}

void weight_gradient(const Machine& machine, const Shape& shape, const int32_t* index,
                     int64_t size, const float* x, const float* g, const float* slope,
                     float* dmean, float* dvariance) {
  const bool sampled = slope != nullptr;
  if (empty(shape)) {
    std::fill_n(dmean, size, 0.0f);
    if (sampled) std::fill_n(dvariance, size, 0.0f);
    return;
  }
  Plan plan = forward_plan(shape);
  cut(plan, {machine.isa->lanes, 1, size, false, true});
  const Lists lists(machine, plan, shape, false, {index, nullptr, nullptr, size}, true);
  // The parts depend on nothing but the shapes, so neither does the order of the sums.
  const int64_t blocks = plan.image_blocks() * plan.column_blocks();
  const int64_t rows = plan.u_high - plan.u_low;
  const int64_t width = sampled ? 2 : 1;
  const int64_t memory = kMaxPartBytes / std::max<int64_t>(4 * width * size, 1);
  const int64_t limit = std::clamp<int64_t>(memory, 1, kMaxParts);
  const int64_t block_parts = std::min(blocks, limit);
  const int64_t max_row_parts = std::max<int64_t>(1, rows / (2 * plan.block));
  const int64_t row_parts = std::clamp<int64_t>(
      std::min((16 + block_parts - 1) / block_parts, limit / block_parts), 1,
      max_row_parts);
  const int64_t parts = block_parts * row_parts;
  const int64_t threads = machine.pool.threads;
  const int64_t channel_parts =
      parts >= threads ? 1 : std::min<int64_t>(2 * threads / parts + 1, shape.co);
  float* sums = sums_scratch.get<float>(std::max<int64_t>(1, parts * width * size));
  Weights w{&plan, lists.list.entries, lists.list.begin.data(), x, g, slope};
  parallel_for(machine.pool, parts * channel_parts, [&](int64_t i) {
    const int64_t c = i % channel_parts, p = i / channel_parts;
    const int64_t r = p % row_parts, block = p / row_parts;
    WeightsTask task{part<int64_t>(0, blocks, block, block_parts),
                     part<int64_t>(0, blocks, block + 1, block_parts),
                     part(plan.u_low, plan.u_high, r, row_parts),
                     part(plan.u_low, plan.u_high, r + 1, row_parts),
                     part<int64_t>(0, shape.co, c, channel_parts),
                     part<int64_t>(0, shape.co, c + 1, channel_parts),
                     sums + p * width * size};
    float* scratch = task_scratch.get<float>(weights_scratch(plan, sampled));
    machine.isa->weights(w, task, scratch);
  });
  const int64_t chunks = size > 16384 ? 8 : 1;
  parallel_for(machine.pool, chunks, [&](int64_t chunk) {
    for (int64_t i = size * chunk / chunks; i < size * (chunk + 1) / chunks; ++i) {
      float first = 0.0f, second = 0.0f;
      for (int64_t p = 0; p < parts; ++p) {
        const float* at = sums + (p * size + i) * width;
        first += at[0];
        if (sampled) second += at[1];
      }
      dmean[lists.list.rank[i]] = first;
      if (sampled) dvariance[lists.list.rank[i]] = second;
    }
  });
}

void comoment(const Machine& machine, int64_t channels, int64_t count, const float* a,
              const float* b, float* sum, float* product) {
  parallel_for(machine.pool, channels, [&](int64_t c) {
    double sums[3] = {0.0, 0.0, 0.0};
    machine.isa->add_sums(a + c * count, b + c * count, count, sums);
    sum[c] = static_cast<float>(sums[0]);
    const double shared = count == 0 ? 0.0 : sums[0] * sums[1] / double(count);
    product[c] = static_cast<float>(sums[2] - shared);
  });
}

}  // namespace ssvi
