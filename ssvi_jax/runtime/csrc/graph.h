// The graph in a model file; ssvi_jax/io/graph.py says what it means.
#pragma once

#include <cstdint>
#include <vector>

namespace ssvi {

// In the order of OPERATIONS in ssvi_jax/io/graph.py; a test compares them.
#define SSVI_OPERATIONS(X)                                                             \
  X(input) X(kernel) X(param) X(constant) X(product) X(matmul) X(select)               \
  X(reshape) X(broadcast) X(transpose) X(reverse) X(concatenate) X(slice) X(pad)       \
  X(reduce_sum) X(reduce_max) X(reduce_min) X(window_sum) X(window_max)                \
  X(neg) X(abs) X(sign) X(floor) X(ceil) X(round) X(trunc) X(exp) X(exp2) X(expm1)     \
  X(log) X(log1p) X(tanh) X(logistic) X(sqrt) X(rsqrt) X(cbrt) X(erf) X(erfc) X(sin)   \
  X(cos) X(square) X(not) X(is_finite)                                                 \
  X(add) X(sub) X(mul) X(div) X(max) X(min) X(pow) X(eq) X(ne) X(lt) X(le) X(gt) X(ge) \
  X(and) X(or)

enum class Operation {
#define SSVI_NAME_IT(name) k_##name,
  SSVI_OPERATIONS(SSVI_NAME_IT)
#undef SSVI_NAME_IT
  kCount
};

// n · each + constant, for a batch of n examples.
struct Number {
  int32_t each, constant;
  int64_t of(int64_t n) const { return n * each + constant; }
};

struct Node {
  Operation operation;
  std::vector<int32_t> inputs;  // of nodes before this one
  std::vector<Number> numbers;
};

struct Constant {
  std::vector<int64_t> shape;
  std::vector<float> values;
};

struct Graph {
  std::vector<int64_t> input_shape;
  int64_t classes;
  std::vector<Constant> constants;
  std::vector<Node> nodes;
};

// Throws an Error on anything that is not a graph.
Graph parse_graph(const std::vector<uint8_t>& stream);

}  // namespace ssvi
