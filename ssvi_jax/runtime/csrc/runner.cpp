#include "runner.h"

#include <algorithm>

#include "draws.h"
#include "errors.h"
#include "operations.h"

namespace ssvi {
namespace {

[[noreturn]] void mismatch() { bad_file("its graph does not fit together"); }

// The numbers of a node for a batch of n.
Lengths numbers_of(const Node& node, int64_t n) {
  Lengths numbers;
  for (const Number& number : node.numbers) numbers.push_back(number.of(n));
  return numbers;
}

int64_t row_of(const Node& node, size_t size) {
  if (node.numbers.size() != 1 || node.numbers[0].each != 0) mismatch();
  const int64_t row = node.numbers[0].constant;
  if (row < 0 || row >= static_cast<int64_t>(size)) mismatch();
  return row;
}

// How many inputs an operation has; -1: any number.
int inputs_of(Operation operation) {
  if (is_unary(operation)) return 1;
  if (is_binary(operation)) return 2;
  switch (operation) {
    case Operation::k_input:
    case Operation::k_kernel:
    case Operation::k_param:
    case Operation::k_constant: return 0;
    case Operation::k_product:
    case Operation::k_concatenate: return -1;
    case Operation::k_matmul:
    case Operation::k_pad: return 2;
    case Operation::k_select: return 3;
    default: return 1;
  }
}

}  // namespace

Runner::Runner(const File& file) : file_(file), last_read_(file.graph.nodes.size(), -1) {
  const auto& nodes = file.graph.nodes;
  for (int32_t i = 0; i < static_cast<int32_t>(nodes.size()); ++i) {
    const Node& node = nodes[i];
    const int wanted = inputs_of(node.operation);
    if (wanted >= 0 && node.inputs.size() != static_cast<size_t>(wanted)) mismatch();
    if (node.operation == Operation::k_kernel) row_of(node, file.layers.size());
    if (node.operation == Operation::k_product) {
      const Window window = window_of(node);
      windows_.emplace(i, window);
      // Positions are those of a kernel that has as many weights as the window.
      if (const auto layer = layer_of(node.inputs[1]))
        if (count(file.layers[*layer].shape) != window.kh * window.kw * window.ci * window.co)
          mismatch();
    }
    for (size_t k = 0; k < node.inputs.size(); ++k) {
      const bool packed = node.operation == Operation::k_product && k == 1 &&
                          layer_of(node.inputs[k]).has_value();
      if (!packed) last_read_[node.inputs[k]] = i;
    }
  }
  restart();
}

std::optional<int64_t> Runner::layer_of(int32_t node) const {
  const Node& found = file_.graph.nodes[node];
  if (found.operation != Operation::k_kernel) return {};
  return row_of(found, file_.layers.size());
}

void Runner::use_means() {
  if (in_use_ == InUse{}) return;
  in_use_ = InUse{};
  restart();
}

void Runner::restart() {
  for (auto& [node, weights] : current_) weights.values.clear();
  for (auto& [node, visits] : visits_)
    if (!fixed_.count(node)) visits.n = -1;
  values_.clear();
  for (const Layer& layer : file_.layers) values_.push_back(layer.mean);
}

void Runner::use_draw(uint64_t seed, uint32_t draw, const Pool& pool) {
  const InUse wanted{true, seed, draw};
  if (in_use_ == wanted) return;
  in_use_ = wanted;
  restart();
  constexpr int64_t kChunk = 4096;
  for (size_t i = 0; i < file_.layers.size(); ++i) {
    const Layer& layer = file_.layers[i];
    if (layer.sigma.empty()) continue;
    const DrawKey key = draw_key(seed, draw, static_cast<uint32_t>(i));
    const auto size = static_cast<int64_t>(layer.sigma.size());
    float* values = values_[i].data();
    parallel_for(pool, (size + kChunk - 1) / kChunk, [&](int64_t chunk) {
      float noise[kChunk];
      const int64_t first = chunk * kChunk, many = std::min(kChunk, size - first);
      normals(key, first, many, noise);
      for (int64_t k = 0; k < many; ++k)
        values[first + k] += layer.sigma[first + k] * noise[k];
    });
  }
}

Tensor Runner::dense_kernel(int64_t row) const {
  const Layer& layer = file_.layers[row];
  Tensor out = make(layer.shape);
  std::fill_n(out.data, out.size(), 0.0f);
  for (size_t i = 0; i < layer.index.size(); ++i)
    out.data[layer.index[i]] = values_[row][i];
  return out;
}

const Runner::Weights& Runner::weights(int32_t node, const std::vector<Tensor>& in,
                                       const Pool& pool) {
  const int32_t kernel = file_.graph.nodes[node].inputs[1];
  const Window& window = windows_.at(node);
  const auto layer = layer_of(kernel);
  const Operation operation = file_.graph.nodes[kernel].operation;
  const bool known = operation == Operation::k_param || operation == Operation::k_constant;
  if (known && fixed_.count(node)) return fixed_[node];
  Weights found;
  if (layer) {
    Weights& kept = current_[node];
    // Positions stay when the values change.
    if (kept.index.empty()) kept.index = widened(window, file_.layers[*layer].index);
    if (kept.values.empty()) kept.values = values_[*layer];
    return kept;
  }
  const Tensor dense = row_major(in[1], pool);
  if (dense.size() != window.kh * window.kw * window.ci * window.co) mismatch();
  for (int64_t i = 0; i < dense.size(); ++i) {
    if (dense.data[i] == 0) continue;
    found.index.push_back(static_cast<int32_t>(i));
    found.values.push_back(dense.data[i]);
  }
  found.index = widened(window, found.index);
  if (!known) visits_[node].n = -1;
  return (known ? fixed_ : current_)[node] = std::move(found);
}

Tensor Runner::multiply(const Machine& machine, int32_t node,
                        const std::vector<Tensor>& in) {
  const Window& window = windows_.at(node);
  const Weights& w = weights(node, in, machine.pool);
  size_t next = 2;
  Operands operands{};
  operands.index = &w.index;
  operands.values = w.values.data();
  if (window.scaled) operands.scale = channels(in[next++], window.co);
  if (window.shifted) operands.shift = channels(in[next++], window.co);
  if (window.added) operands.residual = &in[next++];
  operands.rectified = window.rectified;
  return product(machine, window, in[0], operands, visits_[node]);
}

Tensor Runner::compute(const Machine& machine, int32_t at, const std::vector<Tensor>& in,
                       const float* x, int64_t n) {
  const Node& node = file_.graph.nodes[at];
  const Pool& pool = machine.pool;
  const Operation operation = node.operation;
  if (is_unary(operation)) return unary(operation, in[0], pool);
  if (is_binary(operation)) return binary(operation, in[0], in[1], pool);
  const Lengths numbers = numbers_of(node, n);
  switch (operation) {
    case Operation::k_input: {
      Lengths shape = file_.graph.input_shape;
      shape.insert(shape.begin(), n);
      checked_size(shape);
      return view_of(x, shape);
    }
    case Operation::k_kernel: return dense_kernel(row_of(node, file_.layers.size()));
    case Operation::k_param: {
      const Array& array = file_.params[row_of(node, file_.params.size())];
      if (static_cast<int64_t>(array.values.size()) != checked_size(array.shape)) mismatch();
      return view_of(array.values.data(), array.shape);
    }
    case Operation::k_constant: {
      const Constant& array =
          file_.graph.constants[row_of(node, file_.graph.constants.size())];
      return view_of(array.values.data(), array.shape);
    }
    case Operation::k_product: return multiply(machine, at, in);
    case Operation::k_matmul: return matmul(in[0], in[1], pool);
    case Operation::k_select: return select(in[0], in[1], in[2], pool);
    case Operation::k_reshape: return reshape(in[0], numbers, pool);
    case Operation::k_broadcast: return broadcast_to(in[0], numbers);
    case Operation::k_transpose: return transpose(in[0], numbers);
    case Operation::k_reverse: return reverse(in[0], numbers);
    case Operation::k_slice: return slice(in[0], numbers);
    case Operation::k_concatenate:
      return concatenate(in, numbers.size() == 1 ? numbers[0] : -1, pool);
    case Operation::k_pad:
      if (in[1].size() != 1) mismatch();
      return pad(in[0], *in[1].data, numbers, pool);
    case Operation::k_reduce_sum:
    case Operation::k_reduce_max:
    case Operation::k_reduce_min: return reduce(operation, in[0], numbers, pool);
    case Operation::k_window_sum:
    case Operation::k_window_max: return reduce_window(operation, in[0], numbers, pool);
    default: mismatch();
  }
}

Tensor Runner::run(const Machine& machine, const float* x, int64_t n) {
  const auto& nodes = file_.graph.nodes;
  std::vector<Tensor> values(nodes.size());
  const auto last = static_cast<int32_t>(nodes.size()) - 1;
  for (int32_t i = 0; i <= last; ++i) {
    if (i != last && last_read_[i] < 0) continue;  // a kernel that products read packed
    std::vector<Tensor> in;
    for (int32_t input : nodes[i].inputs) in.push_back(values[input]);
    values[i] = compute(machine, i, in, x, n);
    for (int32_t input : nodes[i].inputs)
      if (last_read_[input] == i) values[input] = Tensor();
  }
  const Tensor out = row_major(values[last], machine.pool);
  if (out.shape != Lengths{n, file_.graph.classes}) mismatch();
  return out;
}

}  // namespace ssvi
