// Computes the nodes of a graph, for the means of the weights or for a draw of them.
#pragma once

#include <map>
#include <optional>
#include <vector>

#include "file.h"
#include "product.h"
#include "tensor.h"

namespace ssvi {

class Runner {
 public:
  explicit Runner(const File& file);

  // Which weights the next passes use: the means, or the draw of this number.
  void use_means();
  void use_draw(uint64_t seed, uint32_t draw, const Pool& pool);

  // The output [n, classes] for inputs in row-major order, at most a few dozen.
  Tensor run(const Machine& machine, const float* x, int64_t n);

  // One node from its inputs' values, those of products too.
  Tensor compute(const Machine& machine, int32_t node, const std::vector<Tensor>& in,
                 const float* x, int64_t n);

  const File& file() const { return file_; }
  // Whether a node's value is read by more than products, which read kernels packed.
  bool is_read(int32_t node) const { return last_read_[node] >= 0; }
  int32_t last_read(int32_t node) const { return last_read_[node]; }
  // A kernel's row, or none where a product multiplies by something else.
  std::optional<int64_t> layer_of(int32_t kernel_node) const;
  const Window& window(int32_t node) const { return windows_.at(node); }

  // What a product multiplies by: widened positions and values.
  struct Weights {
    std::vector<int32_t> index;
    std::vector<float> values;
  };
  const Weights& weights(int32_t node, const std::vector<Tensor>& in, const Pool& pool);

 private:
  // What the values are: the means, or a draw.
  struct InUse {
    bool drawn = false;
    uint64_t seed = 0;
    uint32_t draw = 0;
    bool operator==(const InUse& o) const {
      return drawn == o.drawn && seed == o.seed && draw == o.draw;
    }
  };
  void restart();
  Tensor dense_kernel(int64_t layer) const;
  Tensor multiply(const Machine& machine, int32_t node, const std::vector<Tensor>& in);

  const File& file_;
  InUse in_use_;
  std::vector<int32_t> last_read_;
  std::map<int32_t, Window> windows_;
  std::map<int32_t, Weights> fixed_, current_;  // of products: what does not change
  std::vector<std::vector<float>> values_;      // of each layer, now in use
  std::map<int32_t, Visits> visits_;
};

}  // namespace ssvi
