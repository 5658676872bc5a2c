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
    case Operation::k_constant:
      return 0;
    case Operation::k_product:
    case Operation::k_concatenate:
      return -1;
    case Operation::k_matmul:
    case Operation::k_pad:
      return 2;
    case Operation::k_select:
      return 3;
    default:
      return 1;
  }
}

// The numbers that are not zero, and where they are.
struct NonZeros {
  std::vector<int32_t> index;
  std::vector<float> values;
};

NonZeros non_zeros(const float* values, int64_t size) {
  NonZeros found;
  for (int64_t i = 0; i < size; ++i) {
    if (values[i] == 0) continue;
    found.index.push_back(static_cast<int32_t>(i));
    found.values.push_back(values[i]);
  }
  return found;
}

// Where values go: number k of a layer to out[rank[k]], without a rank to out[k].
struct Target {
  float* out;
  const int32_t* rank;
};

void draw_layer(const Machine& machine, const Layer& layer, const DrawKey& key,
                const std::vector<Target>& targets) {
  constexpr int64_t kChunk = 4096;
  const auto size = static_cast<int64_t>(layer.mean.size());
  const WriteNormals normals = normals_of(*machine.isa);
  parallel_for(machine.pool, (size + kChunk - 1) / kChunk, [&](int64_t chunk) {
    float drawn[kChunk];
    const int64_t first = chunk * kChunk, many = std::min(kChunk, size - first);
    const float* mean = layer.mean.data() + first;
    if (layer.sigma.empty()) {
      std::copy_n(mean, many, drawn);
    } else {
      normals(key, first, many, drawn);
      const float* sigma = layer.sigma.data() + first;
      for (int64_t k = 0; k < many; ++k) drawn[k] = mean[k] + sigma[k] * drawn[k];
    }
    for (const Target& target : targets) {
      if (target.rank == nullptr) {
        std::copy_n(drawn, many, target.out + first);
        continue;
      }
      const int32_t* rank = target.rank + first;
      for (int64_t k = 0; k < many; ++k) target.out[rank[k]] = drawn[k];
    }
  });
}

int64_t weights_of(const Window& w) { return w.kh * w.kw * w.ci * w.co; }

}  // namespace

Runner::Runner(const File& file)
    : file_(file), last_read_(file.graph.nodes.size(), -1) {
  for (int32_t i = 0; i < static_cast<int32_t>(last_read_.size()); ++i) check(i);
}

void Runner::check(int32_t at) {
  const Node& node = file_.graph.nodes[at];
  const int wanted = inputs_of(node.operation);
  if (wanted >= 0 && node.inputs.size() != static_cast<size_t>(wanted)) mismatch();
  if (node.operation == Operation::k_kernel) row_of(node, file_.layers.size());
  if (node.operation == Operation::k_product) add_product(at);
  for (size_t k = 0; k < node.inputs.size(); ++k) {
    const bool packed = node.operation == Operation::k_product && k == 1 &&
                        layer_of(node.inputs[k]).has_value();
    if (packed) continue;
    last_read_[node.inputs[k]] = at;
    if (const auto row = layer_of(node.inputs[k])) read_kernels_.insert(*row);
  }
}

void Runner::add_product(int32_t at) {
  const Node& node = file_.graph.nodes[at];
  const Window window = window_of(node);
  windows_.emplace(at, window);
  const Node& kernel = file_.graph.nodes[node.inputs[1]];
  NonZeros found;
  if (const auto row = layer_of(node.inputs[1])) {
    const Layer& layer = file_.layers[*row];
    // Positions are those of a kernel that has as many weights as the window.
    if (count(layer.shape) != weights_of(window)) mismatch();
    found = {layer.index, layer.mean};
  } else if (kernel.operation == Operation::k_param ||
             kernel.operation == Operation::k_constant) {
    const Tensor values = stored(kernel);
    if (values.size() != weights_of(window)) mismatch();
    found = non_zeros(values.data, values.size());
  } else {
    return;
  }
  auto packed = std::make_shared<SparseKernel>(window, std::move(found.index));
  means_.products[at] = packed->arranged(found.values.data());
  kernels_[at] = std::move(packed);
}

Tensor Runner::stored(const Node& node) const {
  if (node.operation == Operation::k_param) {
    const Array& array = file_.params[row_of(node, file_.params.size())];
    if (static_cast<int64_t>(array.values.size()) != checked_size(array.shape))
      mismatch();
    return view_of(array.values.data(), array.shape);
  }
  const auto& constants = file_.graph.constants;
  const Constant& array = constants[row_of(node, constants.size())];
  return view_of(array.values.data(), array.shape);
}

std::optional<int64_t> Runner::layer_of(int32_t node) const {
  const Node& found = file_.graph.nodes[node];
  if (found.operation != Operation::k_kernel) return {};
  return row_of(found, file_.layers.size());
}

void Runner::draw(const Machine& machine, uint64_t seed, uint32_t number,
                  Values& values) const {
  values.layers.resize(file_.layers.size());
  for (size_t i = 0; i < file_.layers.size(); ++i) {
    const auto row = static_cast<int64_t>(i);
    const size_t size = file_.layers[i].mean.size();
    std::vector<Target> targets;
    for (const auto& [node, kernel] : kernels_) {
      if (layer_of(file_.graph.nodes[node].inputs[1]) != row) continue;
      values.products[node].resize(size);
      targets.push_back({values.products[node].data(), kernel->order().rank.data()});
    }
    if (read_kernels_.count(row)) {
      values.layers[i].resize(size);
      targets.push_back({values.layers[i].data(), nullptr});
    }
    draw_layer(machine, file_.layers[i],
               draw_key(seed, number, static_cast<uint32_t>(i)), targets);
  }
}

int64_t Runner::values_size() const {
  int64_t size = 0;
  for (const auto& [node, kernel] : kernels_)
    if (layer_of(file_.graph.nodes[node].inputs[1]))
      size += static_cast<int64_t>(kernel->order().rank.size());
  for (const int64_t row : read_kernels_)
    size += static_cast<int64_t>(file_.layers[row].mean.size());
  return size;
}

Tensor Runner::dense_kernel(int64_t row, const Values& values) const {
  const Layer& layer = file_.layers[row];
  const std::vector<float>& found =
      values.layers.empty() ? layer.mean : values.layers[row];
  Tensor out = make(layer.shape);
  std::fill_n(out.data, out.size(), 0.0f);
  for (size_t i = 0; i < layer.index.size(); ++i) out.data[layer.index[i]] = found[i];
  return out;
}

Runner::Multiplier Runner::multiplier(int32_t node, const Values& values,
                                      const Tensor& kernel, const Pool& pool) const {
  const auto known = kernels_.find(node);
  if (known != kernels_.end()) {
    const auto drawn = values.products.find(node);
    const auto& found =
        drawn != values.products.end() ? drawn->second : means_.products.at(node);
    return {known->second, {}, found.data()};
  }
  const Window& window = windows_.at(node);
  const Tensor dense = row_major(kernel, pool);
  if (dense.size() != weights_of(window)) mismatch();
  NonZeros found = non_zeros(dense.data, dense.size());
  Multiplier made{
      std::make_shared<SparseKernel>(window, std::move(found.index)), {}, nullptr};
  made.computed = made.kernel->arranged(found.values.data());
  made.values = made.computed.data();
  return made;
}

Tensor Runner::multiply(const Machine& machine, const Values& values, int32_t node,
                        const std::vector<Tensor>& in) const {
  const Window& window = windows_.at(node);
  const Multiplier by = multiplier(node, values, in[1], machine.pool);
  size_t next = 2;
  Operands operands{};
  operands.kernel = by.kernel.get();
  operands.values = by.values;
  if (window.scaled) operands.scale = channels(in[next++], window.co);
  if (window.shifted) operands.shift = channels(in[next++], window.co);
  if (window.added) operands.residual = &in[next++];
  operands.rectified = window.rectified;
  return product(machine, window, in[0], operands);
}

Tensor Runner::compute(const Machine& machine, const Values& values, int32_t at,
                       const std::vector<Tensor>& in, const float* x, int64_t n) const {
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
    case Operation::k_kernel:
      return dense_kernel(row_of(node, file_.layers.size()), values);
    case Operation::k_param:
    case Operation::k_constant:
      return stored(node);
    case Operation::k_product:
      return multiply(machine, values, at, in);
    case Operation::k_matmul:
      return matmul(in[0], in[1], pool);
    case Operation::k_select:
      return select(in[0], in[1], in[2], pool);
    case Operation::k_reshape:
      return reshape(in[0], numbers, pool);
    case Operation::k_broadcast:
      return broadcast_to(in[0], numbers);
    case Operation::k_transpose:
      return transpose(in[0], numbers);
    case Operation::k_reverse:
      return reverse(in[0], numbers);
    case Operation::k_slice:
      return slice(in[0], numbers);
    case Operation::k_concatenate:
      return concatenate(in, numbers.size() == 1 ? numbers[0] : -1, pool);
    case Operation::k_pad:
      if (in[1].size() != 1) mismatch();
      return pad(in[0], *in[1].data, numbers, pool);
    case Operation::k_reduce_sum:
    case Operation::k_reduce_max:
    case Operation::k_reduce_min:
      return reduce(operation, in[0], numbers, pool);
    case Operation::k_window_sum:
    case Operation::k_window_max:
      return reduce_window(operation, in[0], numbers, pool);
    default:
      mismatch();
  }
}

// Calls see(value) for every value that it computes.
template <typename See>
Tensor Runner::walk(const Machine& machine, const Values& weights, const float* x,
                    int64_t n, const See& see) const {
  const auto& nodes = file_.graph.nodes;
  std::vector<Tensor> values(nodes.size());
  const auto last = static_cast<int32_t>(nodes.size()) - 1;
  for (int32_t i = 0; i <= last; ++i) {
    if (i != last && last_read_[i] < 0) continue;  // a kernel that products read packed
    std::vector<Tensor> in;
    for (int32_t input : nodes[i].inputs) in.push_back(values[input]);
    values[i] = compute(machine, weights, i, in, x, n);
    see(values[i]);
    for (int32_t input : nodes[i].inputs)
      if (last_read_[input] == i) values[input] = Tensor();
  }
  const Tensor out = row_major(values[last], machine.pool);
  if (out.shape != Lengths{n, file_.graph.classes}) mismatch();
  return out;
}

Tensor Runner::run(const Machine& machine, const Values& values, const float* x,
                   int64_t n) const {
  return walk(machine, values, x, n, [](const Tensor&) {});
}

int64_t Runner::largest_value(const Machine& machine, const float* x) const {
  int64_t largest = 0;
  walk(machine, means_, x, 1, [&](const Tensor& value) {
    if (value.owner != nullptr) largest = std::max(largest, value.size());
  });
  return largest;
}

}  // namespace ssvi
