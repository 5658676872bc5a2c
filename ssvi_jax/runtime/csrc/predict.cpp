#include "predict.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>
#include <thread>

#include "errors.h"
#include "moments.h"

namespace ssvi {
namespace {

// Inputs at a time: their activations stay in the cache.
constexpr int64_t kPart = 32;
constexpr int64_t kMaxSamples = 1 << 20;
// Draws of a Gaussian of logits: cheap, as no network is run.
constexpr int64_t kLogitDraws = 512;

// The best one, or that of $SSVI_JAX_ISA.
const Isa* chosen_isa() {
  const char* name = std::getenv("SSVI_JAX_ISA");
  const Isa* isa = find_isa(name == nullptr ? "" : name);
  if (isa == nullptr)
    bad_call("SSVI_JAX_ISA: got " + std::string(name) + ", which this processor has not");
  return isa;
}

}  // namespace

// Sums over passes of the probabilities of each input, and of their entropies.
class Predictor::Totals {
 public:
  Totals(int64_t n, int64_t classes)
      : classes_(classes), probabilities_(n * classes, 0.0), entropies_(n, 0.0) {}

  // One pass of inputs from `first` on.
  void add(const float* logits, int64_t first, int64_t n) {
    std::vector<double> p(classes_);
    for (int64_t i = 0; i < n; ++i) {
      const float* row = logits + i * classes_;
      const double top = *std::max_element(row, row + classes_);
      double sum = 0, entropy = 0;
      for (int64_t c = 0; c < classes_; ++c) sum += p[c] = std::exp(row[c] - top);
      for (int64_t c = 0; c < classes_; ++c) {
        p[c] /= sum;
        if (!std::isfinite(p[c]))
          throw Error{SSVI_NOT_FINITE, "input " + std::to_string(first + i) +
                                           " got a probability that is not finite"};
        entropy += row[c] - top < -700 ? 0 : p[c] * (std::log(sum) + top - row[c]);
        probabilities_[(first + i) * classes_ + c] += p[c];
      }
      entropies_[first + i] += entropy;
    }
  }

  void write(int64_t passes, float* probabilities, float* entropy,
             float* mutual_information) const {
    const auto n = static_cast<int64_t>(entropies_.size());
    for (int64_t i = 0; i < n; ++i) {
      double total = 0;
      for (int64_t c = 0; c < classes_; ++c) {
        const double p = probabilities_[i * classes_ + c] / double(passes);
        if (p > 0) total -= p * std::log(p);
        probabilities[i * classes_ + c] = static_cast<float>(p);
      }
      if (entropy != nullptr) entropy[i] = static_cast<float>(total);
      const double mutual = std::max(0.0, total - entropies_[i] / double(passes));
      if (mutual_information != nullptr)
        mutual_information[i] = passes == 1 ? 0.0f : static_cast<float>(mutual);
    }
  }

 private:
  int64_t classes_;
  std::vector<double> probabilities_, entropies_;
};

Predictor::Predictor(const uint8_t* data, size_t size)
    : file_(read_file(data, size)), runner_(file_) {
  is_random_ = std::any_of(file_.layers.begin(), file_.layers.end(),
                           [](const Layer& layer) { return !layer.sigma.empty(); });
  inputs_ = checked_size(file_.graph.input_shape);
}

void Predictor::describe(ssvi_info& info) const {
  info = {};
  info.rank = static_cast<int32_t>(file_.graph.input_shape.size());
  std::copy(file_.graph.input_shape.begin(), file_.graph.input_shape.end(), info.shape);
  info.inputs = inputs_;
  info.classes = file_.graph.classes;
  info.is_random = is_random_;
}

const Pool& Predictor::pool(int threads) {
  const auto all = static_cast<int>(std::thread::hardware_concurrency());
  threads = threads > 0 ? threads : std::max(1, all);
  if (workers_ == nullptr || workers_->pool().threads != threads)
    workers_ = std::make_unique<Workers>(threads);
  return workers_->pool();
}

void Predictor::pass(const Machine& machine, const float* x, int64_t n, Totals& totals) {
  for (int64_t first = 0; first < n; first += kPart) {
    const int64_t many = std::min(kPart, n - first);
    const Tensor logits = runner_.run(machine, x + first * inputs_, many);
    totals.add(logits.data, first, many);
  }
}

void Predictor::predict(const float* x, int64_t n, const ssvi_options& options,
                        float* probabilities, float* entropy, float* mutual_information) {
  if (x == nullptr || probabilities == nullptr || n < 1)
    bad_call("x, n, probabilities: needs at least one input, and memory for its result");
  if (options.threads < 0 || options.threads > 1024)
    bad_call("threads: allowed are 0 (one a processor) to 1024");
  const std::lock_guard<std::mutex> lock(mutex_);
  const Machine machine{chosen_isa(), pool(options.threads)};
  // Given back at the end: a model that waits holds its weights only.
  const Memory::Use memory(std::make_shared<Memory>());
  Totals totals(n, file_.graph.classes);
  int64_t passes = 1;
  if (options.mode == SSVI_MEAN || (options.mode == SSVI_SAMPLES && !is_random_)) {
    runner_.use_means();
    pass(machine, x, n, totals);
  } else if (options.mode == SSVI_SAMPLES) {
    passes = options.samples;
    if (passes < 1 || passes > kMaxSamples)
      bad_call("samples: allowed are 1 to " + std::to_string(kMaxSamples));
    for (int64_t draw = 0; draw < passes; ++draw) {
      runner_.use_draw(options.seed, static_cast<uint32_t>(draw), machine.pool);
      pass(machine, x, n, totals);
    }
  } else if (options.mode == SSVI_MOMENTS) {
    passes = is_random_ ? kLogitDraws : 1;
    runner_.use_means();
    MomentPass moments(runner_);
    for (int64_t first = 0; first < n; first += kPart) {
      const int64_t many = std::min(kPart, n - first);
      const Gaussian logits = moments.run(machine, x + first * inputs_, many);
      for (int64_t draw = 0; draw < passes; ++draw)
        totals.add(logits_drawn(logits, draw).data(), first, many);
    }
  } else {
    bad_call("mode: allowed are SSVI_MEAN, SSVI_SAMPLES and SSVI_MOMENTS");
  }
  totals.write(passes, probabilities, entropy, mutual_information);
}

}  // namespace ssvi
