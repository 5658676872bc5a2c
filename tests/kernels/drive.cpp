// Runs every pass of the kernels on random shapes, for a build with sanitizers.
//
// Buffers end where their arrays end, so that a pass that reads or writes beyond one is
// found; outputs are full of NaN, so that one that leaves something out is found too.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <new>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "passes.h"
#include "planes.h"

namespace {

using ssvi::Kernel;
using ssvi::Machine;
using ssvi::Shape;

std::mt19937 generator(7);

int64_t between(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(generator);
}

// As XLA aligns its own. Not a vector: this has an address when it is empty too.
template <typename T>
class Buffer {
 public:
  Buffer(int64_t size, T value) : size_(size) {
    data_ = static_cast<T*>(::operator new(size * sizeof(T), kAlignment));
    std::fill_n(data_, size, value);
  }
  Buffer(Buffer&& other)
      : size_(other.size_), data_(std::exchange(other.data_, nullptr)) {}
  ~Buffer() { ::operator delete(data_, kAlignment); }
  T* data() { return data_; }
  T* begin() { return data_; }
  T* end() { return data_ + size_; }
  int64_t size() const { return size_; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  int64_t size_;
  T* data_;
};

Buffer<float> numbers(int64_t size) {
  Buffer<float> values(size, 0.f);
  std::uniform_real_distribution<float> value(0.1f, 1.f);
  for (float& v : values) v = value(generator);
  return values;
}

Buffer<float> outputs(int64_t size) {
  return {size, std::numeric_limits<float>::quiet_NaN()};
}

Buffer<int32_t> selected(int64_t weights) {
  const double density = std::vector<double>{0, .02, .2, .5, 1}[between(0, 4)];
  std::vector<int32_t> chosen;
  for (int64_t i = 0; i < weights; ++i) {
    if (std::bernoulli_distribution(density)(generator)) chosen.push_back(i);
  }
  Buffer<int32_t> index(chosen.size(), 0);
  std::copy(chosen.begin(), chosen.end(), index.begin());
  return index;
}

void check(Buffer<float>& values, const char* what) {
  if (std::any_of(values.begin(), values.end(),
                  [](float v) { return std::isnan(v); })) {
    std::printf("%s is not written, or not a number\n", what);
    std::exit(1);
  }
}

// Some threads, as a pool gives them: a helper may start after its call has returned.
class Helpers {
 public:
  explicit Helpers(int threads) {
    pool_.threads = threads;
    pool_.schedule = [this](std::function<void()> work) {
      threads_.emplace_back(std::move(work));
    };
  }
  ~Helpers() {
    for (std::thread& thread : threads_) thread.join();
  }
  const ssvi::Pool& pool() const { return pool_; }

 private:
  ssvi::Pool pool_;
  std::vector<std::thread> threads_;
};

void run_passes(const Machine& machine, const Shape& s) {
  auto index = selected(s.kh * s.kw * s.ci * s.co);
  auto means = numbers(index.size()), sigmas = numbers(index.size());
  auto x = numbers(s.ci * s.h * s.w * s.n), bias = numbers(s.co);
  auto g = numbers(s.co * s.p * s.q * s.n);
  auto y = outputs(g.size()), slope = outputs(g.size()), y_mean = outputs(g.size());
  auto dx = outputs(x.size()), dx_mean = outputs(x.size());
  auto dmean = outputs(index.size()), dvariance = outputs(index.size());
  auto dmean_only = outputs(index.size());
  Buffer<uint32_t> key(4, 3);
  key.data()[2] = static_cast<uint32_t>(s.n + 16 * between(0, 2));
  key.data()[3] = static_cast<uint32_t>(between(0, key.data()[2] - s.n));
  const Kernel sampled{index.data(), means.data(), sigmas.data(), index.size()};
  const Kernel plain{index.data(), means.data(), nullptr, index.size()};

  auto total = outputs(s.co), squares = outputs(s.co);
  ssvi::sample(machine, s, sampled, x.data(), key.data(), y.data(), slope.data(),
               total.data(), squares.data());
  check(y, "y of a sample");
  check(total, "sums of a sample");
  check(squares, "squares of a sample");
  check(slope, "slope");
  const ssvi::Epilogue epilogue{between(0, 1) ? bias.data() : nullptr,
                                between(0, 1) ? g.data() : nullptr, between(0, 1) == 1};
  Buffer<ssvi::Entry> entries(index.size(), ssvi::Entry{});
  Buffer<int32_t> table(ssvi::mean_table(s), 0);
  Kernel scaled = plain;
  scaled.scale = between(0, 1) ? bias.data() : nullptr;
  ssvi::list_mean(machine, s, scaled, entries.data(), table.data());
  ssvi::mean(machine, s, entries.data(), table.data(), index.size(), x.data(), epilogue,
             y_mean.data());
  check(y_mean, "y of the mean");
  auto lines = numbers(4 * s.co);
  const ssvi::NormGradient none{},
      norm{between(0, 1) ? y.data() : nullptr, lines.data()};
  ssvi::input_gradient(machine, s, sampled, g.data(), slope.data(), norm, x.data(),
                       dx.data());
  check(dx, "gradient of the input of a sample");
  ssvi::input_gradient(machine, s, plain, g.data(), nullptr, none, nullptr,
                       dx_mean.data());
  check(dx_mean, "gradient of the input");
  ssvi::weight_gradient(machine, s, index.data(), index.size(), x.data(), g.data(),
                        slope.data(), norm, dmean.data(), dvariance.data());
  check(dmean, "gradient of a sample's means");
  check(dvariance, "gradient of a sample's variances");
  ssvi::weight_gradient(machine, s, index.data(), index.size(), x.data(), g.data(),
                        nullptr, none, dmean_only.data(), nullptr);
  check(dmean_only, "gradient of the means");

  auto dx_both = outputs(x.size()), dmean_both = outputs(index.size());
  auto dvariance_both = outputs(index.size());
  ssvi::gradients(machine, s, sampled, g.data(), slope.data(), norm, x.data(),
                  dx_both.data(), dmean_both.data(), dvariance_both.data());
  check(dx_both, "gradient of the input, with both");
  check(dmean_both, "gradient of a sample's means, with both");
  check(dvariance_both, "gradient of a sample's variances, with both");
  auto dx_plain = outputs(x.size()), dmean_plain = outputs(index.size());
  ssvi::gradients(machine, s, plain, g.data(), nullptr, none, x.data(), dx_plain.data(),
                  dmean_plain.data(), nullptr);
  check(dx_plain, "gradient of the input, with that of the means");
  check(dmean_plain, "gradient of the means, with that of the input");

  auto dense = outputs(s.kh * s.kw * s.ci * s.co);
  ssvi::dense_gradient(machine, s, x.data(), g.data(), dense.data());
  check(dense, "gradient of every weight");

  auto sum = outputs(s.ci), product = outputs(s.ci), line = numbers(s.ci);
  const float* given = between(0, 1) ? line.data() : nullptr;
  const ssvi::Moments moments{
      s.ci,  s.n,  x.data(), x.data(), between(0, 1) ? line.data() : nullptr,
      given, given};
  ssvi::comoment(machine, moments, s.h * s.w, sum.data(), product.data());
  check(sum, "sum");
  check(product, "product");
}

// The product of planes against the one of batches: [h][w][c][n] and [n][c][h][w].
void run_planes(const Machine& machine, const Shape& s) {
  auto index = selected(s.kh * s.kw * s.ci * s.co);
  auto values = numbers(index.size()), arranged = outputs(index.size());
  auto x = numbers(s.n * s.ci * s.h * s.w), turned = outputs(x.size());
  auto scale = numbers(s.co), bias = numbers(s.co);
  auto residual = numbers(s.n * s.co * s.p * s.q),
       turned_residual = outputs(residual.size());
  auto y = outputs(residual.size()), expected = outputs(residual.size());
  const auto turn = [&](Buffer<float>& from, Buffer<float>& to, int64_t channels) {
    const int64_t pixels = from.size() / (s.n * channels);
    for (int64_t i = 0; i < from.size(); ++i) {
      const int64_t pixel = i % pixels, c = i / pixels % channels,
                    n = i / pixels / channels;
      to.data()[(pixel * channels + c) * s.n + n] = from.data()[i];
    }
  };
  turn(x, turned, s.ci), turn(residual, turned_residual, s.co);
  const bool scaled = between(0, 1), shifted = between(0, 1), added = between(0, 1);
  const Kernel kernel{index.data(), values.data(), nullptr, index.size(),
                      scaled ? scale.data() : nullptr};
  Buffer<ssvi::Entry> entries(index.size(), ssvi::Entry{});
  Buffer<int32_t> table(ssvi::mean_table(s), 0);
  ssvi::list_mean(machine, s, kernel, entries.data(), table.data());
  ssvi::mean(
      machine, s, entries.data(), table.data(), index.size(), turned.data(),
      {shifted ? bias.data() : nullptr, added ? turned_residual.data() : nullptr, true},
      expected.data());
  const ssvi::Planes planes = ssvi::planes_of(s);
  const ssvi::PlaneOrder order =
      ssvi::order_planes(s.kh * s.kw * s.ci * s.co, s.co, index.data(), index.size());
  for (int64_t k = 0; k < index.size(); ++k)
    arranged.data()[order.rank[k]] = values.data()[k];
  const auto offset = list_planes(planes, index.data(), order);
  ssvi::mean_of_planes(
      machine, planes, moves_of(planes),
      {order.begin.data(), offset.data(), arranged.data()}, s.n, x.data(),
      {scaled ? scale.data() : nullptr, shifted ? bias.data() : nullptr,
       added ? residual.data() : nullptr, true},
      y.data());
  auto turned_y = outputs(y.size());
  turn(y, turned_y, s.co);
  for (int64_t i = 0; i < y.size(); ++i) {
    const float want = expected.data()[i];
    if (std::fabs(turned_y.data()[i] - want) <= 1e-5f * (1 + want)) continue;
    std::printf("planes: %g, where the other pass has %g\n", turned_y.data()[i], want);
    std::exit(1);
  }
}

Shape random_shape() {
  Shape s{};
  s.n = between(0, 3) ? between(1, 40) : 16 * between(1, 5);
  s.ci = between(1, 9), s.co = between(1, 9);
  s.kh = between(1, 5), s.kw = between(1, 5);
  s.sh = between(1, 3), s.sw = between(1, 3);
  s.top = between(0, 6), s.left = between(0, 6);
  const int64_t bottom = between(0, 6), right = between(0, 6);
  s.h = between(std::max<int64_t>(1, s.kh - s.top - bottom), 12);
  s.w = between(std::max<int64_t>(1, s.kw - s.left - right), 20);
  s.p = (s.h + s.top + bottom - s.kh) / s.sh + 1;
  s.q = (s.w + s.left + right - s.kw) / s.sw + 1;
  return s;
}

// Outputs that are written around the cache, and channels that need several turns.
const Shape kLarge[] = {
    {64, 3, 18, 18, 14, 18, 18, 3, 3, 1, 1, 1, 1},
    {17, 10000, 4, 4, 2, 4, 4, 3, 3, 1, 1, 1, 1},
    {17, 2, 3, 4, 7000, 2, 4, 3, 3, 2, 1, 1, 1},
};

// Planes of a pixel, of one vector and of several, wide and narrow ones.
const Shape kPlanes[] = {
    {1, 40, 1, 1, 7, 1, 1, 1, 1, 1, 1, 0, 0},
    {1, 9, 1, 90, 7, 1, 90, 1, 1, 1, 1, 0, 0},
    {3, 9, 32, 32, 7, 32, 32, 3, 3, 1, 1, 1, 1},
    {2, 9, 9, 50, 7, 5, 25, 3, 3, 2, 2, 1, 1},
    {2, 9, 8, 8, 7, 8, 8, 3, 3, 1, 1, 1, 1},
    {2, 9, 20, 70, 7, 10, 23, 5, 5, 2, 3, 2, 1},
};

}  // namespace

int main(int, char** arguments) {
  const int shapes = std::atoi(arguments[1]);
  for (const char* name : {"avx512", "avx2", "generic"}) {
    const ssvi::Isa* isa = ssvi::find_isa(name);
    if (isa == nullptr) continue;
    for (int threads : {1, 2}) {
      for (int i = 0; i < shapes; ++i) {
        Helpers helpers(threads);
        const Shape shape = random_shape();
        run_passes({isa, helpers.pool()}, shape);
        run_planes({isa, helpers.pool()}, shape);
      }
      for (const Shape& shape : kLarge) {
        Helpers helpers(threads);
        run_passes({isa, helpers.pool()}, shape);
      }
      for (const Shape& shape : kPlanes) {
        Helpers helpers(threads);
        run_planes({isa, helpers.pool()}, shape);
      }
    }
    std::printf("%s\n", name);
  }
}
