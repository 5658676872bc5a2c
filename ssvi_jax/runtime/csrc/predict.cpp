#include "predict.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <string>
#include <thread>

#include "errors.h"
#include "moments.h"

namespace ssvi {
namespace {

// Inputs at a time: their activations, of which the largest has about so many numbers,
// stay in a cache of a core.
constexpr int64_t kCached = 1 << 16, kMostTogether = 32;
// Logits of one pass that are kept until those of all passes are there.
constexpr int64_t kKept = 1 << 22;
// Values of draws that are kept for the next call with the same seed.
constexpr int64_t kKeptValues = 1 << 24;
constexpr int64_t kMaxSamples = 1 << 20;
// Draws of a Gaussian of logits: cheap, as no network is run.
constexpr int64_t kLogitDraws = 512;

// The best one, or that of $SSVI_JAX_ISA.
const Isa* chosen_isa() {
  const char* name = std::getenv("SSVI_JAX_ISA");
  const Isa* isa = find_isa(name == nullptr ? "" : name);
  if (isa == nullptr)
    bad_call("SSVI_JAX_ISA: got " + std::string(name) +
             "; allowed are those of avx512, avx2 and generic that this processor has");
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
  if (workers_ == nullptr || workers_->asked() != threads)
    workers_ = std::make_unique<Workers>(threads);
  return workers_->pool();
}

// What a thread needs for a pass of its own.
struct Place {
  Values values;
  std::shared_ptr<Memory> memory = std::make_shared<Memory>();
};

// Passes over the same inputs, and the memory of their activations.
class Predictor::Passes {
 public:
  Passes(const Runner& runner, const Machine& machine, const float* x, int64_t inputs,
         int64_t n, int64_t together)
      : runner_(runner),
        machine_(machine),
        x_(x),
        inputs_(inputs),
        n_(n),
        together_(together) {}

  const Machine& machine() const { return machine_; }
  int64_t size() const { return n_; }
  int64_t together() const { return together_; }
  const float* input(int64_t i) const { return x_ + i * inputs_; }

  // The logits of inputs [low, high), on the threads of a machine.
  void run(const Machine& machine, const Values& values, int64_t low, int64_t high,
           float* logits) {
    const int64_t parts = (high - low + together_ - 1) / together_;
    const auto part = [&](const Machine& own, int64_t i) {
      const int64_t first = low + i * together_,
                    many = std::min(together_, high - first);
      const Tensor found = runner_.run(own, values, input(first), many);
      std::copy_n(found.data, found.size(), logits + (first - low) * found.shape[1]);
    };
    if (parts < 2 * machine.pool.threads) {
      for (int64_t i = 0; i < parts; ++i) part(machine, i);
      return;
    }
    parallel_for(machine.pool, parts, [&](int64_t i) {
      with_place([&](Place&) { part({machine.isa, {}}, i); });
    });
  }

  // Calls body(place) with memory that no other thread has now.
  template <typename Body>
  void with_place(const Body& body) {
    std::unique_ptr<Place> place;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!free_.empty()) place = std::move(free_.back()), free_.pop_back();
    }
    if (place == nullptr) place = std::make_unique<Place>();
    {
      const Memory::Use memory(place->memory);
      body(*place);
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(std::move(place));
  }

 private:
  const Runner& runner_;
  const Machine& machine_;
  const float* x_;
  int64_t inputs_, n_, together_;
  std::vector<std::unique_ptr<Place>> free_;
  std::mutex mutex_;
};

void Predictor::add_mean(Passes& passes, Totals& totals) {
  const int64_t classes = file_.graph.classes,
                step = std::max<int64_t>(1, kKept / classes);
  std::vector<float> logits(std::min(step, passes.size()) * classes);
  for (int64_t low = 0; low < passes.size(); low += step) {
    const int64_t high = std::min(passes.size(), low + step);
    passes.with_place([&](Place&) {
      passes.run(passes.machine(), runner_.means(), low, high, logits.data());
    });
    totals.add(logits.data(), low, high - low);
  }
}

// As many draws at once as there are threads, or one after the other on all of them.
// The sums are in the order of the draws.
void Predictor::add_draws(Passes& passes, int64_t draws, uint64_t seed,
                          Totals& totals) {
  if (seed != seed_)
    for (Draw& draw : draws_) draw.is_made = false;
  seed_ = seed;
  const int64_t most = kKeptValues / std::max<int64_t>(1, runner_.values_size());
  draws_.resize(std::max<size_t>(draws_.size(), std::min(draws, most)));
  const Machine& machine = passes.machine();
  const int threads = machine.pool.threads;
  const bool apart = draws >= threads;
  const Machine own = apart ? Machine{machine.isa, {}} : machine;
  const int64_t at_once =
      apart && threads > 1 ? std::min<int64_t>(draws, 4 * threads) : 1;
  const int64_t classes = file_.graph.classes;
  const int64_t step = std::max<int64_t>(1, kKept / classes / at_once);
  const int64_t kept = std::min(step, passes.size()) * classes;
  std::vector<float> logits(at_once * kept);
  for (int64_t low = 0; low < passes.size(); low += step) {
    const int64_t high = std::min(passes.size(), low + step);
    for (int64_t first = 0; first < draws; first += at_once) {
      const int64_t many = std::min(at_once, draws - first);
      const auto pass = [&](int64_t i) {
        const auto number = static_cast<uint32_t>(first + i);
        passes.with_place([&](Place& place) {
          const bool keeps = number < draws_.size();
          Values& values = keeps ? draws_[number].values : place.values;
          if (!keeps || !draws_[number].is_made)
            runner_.draw(own, seed, number, values);
          if (keeps) draws_[number].is_made = true;
          passes.run(own, values, low, high, logits.data() + i * kept);
        });
      };
      if (many == 1)
        pass(0);
      else
        parallel_for(machine.pool, many, pass);
      for (int64_t i = 0; i < many; ++i)
        totals.add(logits.data() + i * kept, low, high - low);
    }
  }
}

void Predictor::add_moments(Passes& passes, int64_t draws, Totals& totals) {
  MomentPass moments(runner_);
  passes.with_place([&](Place&) {
    for (int64_t first = 0; first < passes.size(); first += passes.together()) {
      const int64_t many = std::min(passes.together(), passes.size() - first);
      const Gaussian logits = moments.run(passes.machine(), passes.input(first), many);
      for (int64_t draw = 0; draw < draws; ++draw)
        totals.add(logits_drawn(logits, draw).data(), first, many);
    }
  });
}

static bool is_pixel(float value) {
  return value >= 0 && value <= 255 && value == static_cast<float>(static_cast<int>(value));
}

// Of every mode: a rectifier takes NaN for 0 where moments go through it, and what no
// weight reads would not be seen.
void Predictor::check_inputs(const float* x, int64_t n) const {
  for (int64_t i = 0; i < n; ++i)
    for (int64_t k = 0; k < inputs_; ++k) {
      const float value = x[i * inputs_ + k];
      if (!std::isfinite(value))
        throw Error{SSVI_NOT_FINITE, "input " + std::to_string(i) +
                                         " has a number that is not finite in float32"};
      if (file_.takes_pixels && !is_pixel(value))
        bad_call("input " + std::to_string(i) + " has the number " +
                 std::to_string(value) + ", but this network takes pixels: whole " +
                 "numbers from 0 to 255, as it was trained");
    }
}

void Predictor::predict(const float* x, int64_t n, const ssvi_options& options,
                        float* probabilities, float* entropy,
                        float* mutual_information) {
  if (x == nullptr) bad_call("x: got null");
  if (probabilities == nullptr) bad_call("probabilities: got null");
  const int64_t widest = std::max(inputs_, file_.graph.classes);
  const int64_t most = std::numeric_limits<int64_t>::max() /
                       (static_cast<int64_t>(sizeof *x) * std::max<int64_t>(1, widest));
  if (n < 1 || n > most) bad_call("n: allowed are 1 to " + std::to_string(most));
  if (options.threads < 0 || options.threads > 1024)
    bad_call("threads: allowed are 0 (one a processor) to 1024");
  check_inputs(x, n);
  const std::lock_guard<std::mutex> lock(mutex_);
  const Machine machine{chosen_isa(), pool(options.threads)};
  if (together_ == 0) {
    const std::vector<float> zeros(inputs_);
    const int64_t largest = runner_.largest_value(machine, zeros.data());
    together_ =
        std::clamp<int64_t>(kCached / std::max<int64_t>(1, largest), 1, kMostTogether);
  }
  Totals totals(n, file_.graph.classes);
  Passes passes(runner_, machine, x, inputs_, n, together_);
  int64_t count = 1;
  if (options.mode == SSVI_MEAN || (options.mode == SSVI_SAMPLES && !is_random_)) {
    add_mean(passes, totals);
  } else if (options.mode == SSVI_SAMPLES) {
    count = options.samples;
    if (count < 1 || count > kMaxSamples)
      bad_call("samples: allowed are 1 to " + std::to_string(kMaxSamples));
    add_draws(passes, count, options.seed, totals);
  } else if (options.mode == SSVI_MOMENTS) {
    count = is_random_ ? kLogitDraws : 1;
    add_moments(passes, count, totals);
  } else {
    bad_call("mode: allowed are SSVI_MEAN, SSVI_SAMPLES and SSVI_MOMENTS");
  }
  totals.write(count, probabilities, entropy, mutual_information);
}

}  // namespace ssvi
