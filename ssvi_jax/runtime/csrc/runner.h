// Computes the nodes of a graph, for the means of the weights or for a draw of them.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "file.h"
#include "product.h"
#include "tensor.h"

namespace ssvi {

// Values of all weights.
struct Values {
  std::map<int32_t, std::vector<float>> products;  // arranged, by node
  // In the file's order, of kernels that others than products read; none: the means.
  std::vector<std::vector<float>> layers;
};

// Several threads may run it.
class Runner {
 public:
  explicit Runner(const File& file);

  const Values& means() const { return means_; }
  // Makes the draw of this number of `values`.
  void draw(const Machine& machine, uint64_t seed, uint32_t number,
            Values& values) const;

  // Numbers of a draw.
  int64_t values_size() const;

  // The output [n, classes] for inputs in row-major order, at most a few dozen.
  Tensor run(const Machine& machine, const Values& values, const float* x,
             int64_t n) const;

  // Numbers of the largest value of a node for one input.
  int64_t largest_value(const Machine& machine, const float* x) const;

  // One node from its inputs' values, those of products too.
  Tensor compute(const Machine& machine, const Values& values, int32_t node,
                 const std::vector<Tensor>& in, const float* x, int64_t n) const;

  const File& file() const { return file_; }
  // Whether a node's value is read by more than products, which read kernels packed.
  bool is_read(int32_t node) const { return last_read_[node] >= 0; }
  int32_t last_read(int32_t node) const { return last_read_[node]; }
  // A kernel's row, or none where a product multiplies by something else.
  std::optional<int64_t> layer_of(int32_t kernel_node) const;
  const Window& window(int32_t node) const { return windows_.at(node); }

  // What a product multiplies by.
  struct Multiplier {
    std::shared_ptr<const SparseKernel> kernel;
    std::vector<float> computed;  // its values, where no file has them
    const float* values;          // arranged
  };
  Multiplier multiplier(int32_t node, const Values& values, const Tensor& kernel,
                        const Pool& pool) const;

 private:
  template <typename See>
  Tensor walk(const Machine& machine, const Values& values, const float* x, int64_t n,
              const See& see) const;
  void check(int32_t node);
  void add_product(int32_t node);
  Tensor stored(const Node& node) const;
  Tensor dense_kernel(int64_t layer, const Values& values) const;
  Tensor multiply(const Machine& machine, const Values& values, int32_t node,
                  const std::vector<Tensor>& in) const;

  const File& file_;
  std::vector<int32_t> last_read_;
  std::map<int32_t, Window> windows_;
  std::map<int32_t, std::shared_ptr<const SparseKernel>> kernels_;  // known in advance
  std::set<int64_t> read_kernels_;  // layers that others than products read
  Values means_;
};

}  // namespace ssvi
