#include "moments.h"

#include <cmath>
#include <utility>

#include "draws.h"
#include "errors.h"

namespace ssvi {
namespace {

[[noreturn]] void unknown(const std::string& what) {
  bad_call("mode: moments are not known for " + what + "; take samples");
}

Gaussian moments_of(const Gaussian& moments, const std::vector<Tensor>& points,
                    const Pool& pool) {
  return points.empty() ? moments : of_points(points, pool);
}

bool is_comparison(Operation operation) {
  return operation >= Operation::k_eq && operation <= Operation::k_or;
}

bool needs_positive(Operation operation) {
  return operation == Operation::k_sqrt || operation == Operation::k_rsqrt ||
         operation == Operation::k_log;
}

// A positive number that is taken to be a Gaussian is not below a tenth of its median.
std::vector<Tensor> kept_positive(const std::vector<Tensor>& points, const Pool& pool) {
  static const float tenth = 0.1f;
  const Tensor least =
      binary(Operation::k_mul, points[kPoints / 2], view_of(&tenth, {}), pool);
  std::vector<Tensor> kept;
  for (const Tensor& point : points)
    kept.push_back(binary(Operation::k_max, point, least, pool));
  return kept;
}

}  // namespace

std::vector<float> logits_drawn(const Gaussian& logits, int64_t draw) {
  const int64_t classes = logits.mean.shape[1];
  std::vector<float> out(logits.mean.data, logits.mean.data + logits.mean.size());
  if (!logits.is_random()) return out;
  std::vector<float> noise(classes);
  normals_generic(draw_key(0, static_cast<uint32_t>(draw / 2), 0), 0, classes,
                  noise.data());
  const float sign = draw % 2 ? -1.0f : 1.0f;  // pairs have the right mean
  for (size_t i = 0; i < out.size(); ++i)
    out[i] += sign * noise[i % classes] * std::sqrt(logits.variance.data[i]);
  return out;
}

Gaussian MomentPass::run(const Machine& machine, const float* x, int64_t n) {
  const auto& nodes = runner_.file().graph.nodes;
  std::vector<Value> values(nodes.size());
  const auto last = static_cast<int32_t>(nodes.size()) - 1;
  for (int32_t i = 0; i <= last; ++i) {
    if (i != last && !runner_.is_read(i)) continue;
    Values in;
    for (int32_t input : nodes[i].inputs) in.push_back(&values[input]);
    values[i] = compute(machine, i, in, x, n);
    for (int32_t input : nodes[i].inputs)
      if (runner_.last_read(input) == i) values[input] = Value();
  }
  Gaussian found = moments_of(values[last].moments, values[last].points, machine.pool);
  found.mean = row_major(found.mean, machine.pool);
  if (found.mean.shape != Lengths{n, runner_.file().graph.classes})
    bad_file("its graph does not fit together");
  if (found.is_random()) found.variance = row_major(found.variance, machine.pool);
  return found;
}

MomentPass::Value MomentPass::compute(const Machine& machine, int32_t at,
                                      const Values& in, const float* x, int64_t n) {
  const Node& node = runner_.file().graph.nodes[at];
  const Operation operation = node.operation;
  bool random = false;
  for (const Value* value : in) random |= value->is_random();
  if (const auto layer = runner_.layer_of(at)) {
    if (!runner_.file().layers[*layer].sigma.empty())
      unknown("a kernel that is computed with before it multiplies, as one larger than its input is");
  }
  if (operation == Operation::k_product) {
    if (const auto layer = runner_.layer_of(node.inputs[1]))
      random |= !runner_.file().layers[*layer].sigma.empty();
  }
  Value found;
  found.source = at;
  if (!random) {
    std::vector<Tensor> arrays;
    for (const Value* value : in) arrays.push_back(value->moments.mean);
    found.moments.mean = runner_.compute(machine, runner_.means(), at, arrays, x, n);
    return found;
  }
  if (is_unary(operation) || is_binary(operation) || operation == Operation::k_select)
    return elementwise(machine, at, in);
  const bool pools =
      operation >= Operation::k_reduce_sum && operation <= Operation::k_window_max;
  return pools ? pooled(machine, at, *in[0], n) : rearranged(machine, at, in, n);
}

MomentPass::Value MomentPass::elementwise(const Machine& machine, int32_t at,
                                          const Values& in) {
  const Operation operation = runner_.file().graph.nodes[at].operation;
  const Pool& pool = machine.pool;
  int32_t source = -1;
  bool one_source = true, plain = true;
  for (const Value* value : in) {
    if (!value->is_random()) continue;
    one_source &= source < 0 || source == value->source;
    plain &= value->points.empty();
    source = value->source;
  }
  const bool extreme = operation == Operation::k_max || operation == Operation::k_min;
  const bool against_known = in.size() == 2 && in[0]->is_random() != in[1]->is_random();
  Value found;
  if (!one_source || (extreme && plain && against_known)) {
    std::vector<Gaussian> given;
    for (const Value* value : in)
      given.push_back(moments_of(value->moments, value->points, pool));
    found.source = at;
    found.moments = of_independent(at, given, pool);
    return found;
  }
  found.source = source;
  std::vector<std::vector<Tensor>> points;
  for (const Value* value : in)
    points.push_back(value->is_random()
                         ? points_of(*value, pool)
                         : std::vector<Tensor>(kPoints, value->moments.mean));
  if (needs_positive(operation)) points[0] = kept_positive(points[0], pool);
  for (int q = 0; q < kPoints; ++q) {
    std::vector<Tensor> arrays;
    for (const auto& each : points) arrays.push_back(each[q]);
    found.points.push_back(
        runner_.compute(machine, runner_.means(), at, arrays, nullptr, 1));
  }
  return found;
}

Gaussian MomentPass::of_independent(int32_t at, const std::vector<Gaussian>& in,
                                    const Pool& pool) {
  const Operation operation = runner_.file().graph.nodes[at].operation;
  const auto add = [&](const Tensor& a, const Tensor& b) {
    return binary(Operation::k_add, a, b, pool);
  };
  if (operation == Operation::k_add || operation == Operation::k_sub) {
    Gaussian found{binary(operation, in[0].mean, in[1].mean, pool), {}};
    found.variance = !in[0].is_random()   ? in[1].variance
                     : !in[1].is_random() ? in[0].variance
                                          : add(in[0].variance, in[1].variance);
    found.variance = broadcast_to(found.variance, found.mean.shape);
    return found;
  }
  if (operation == Operation::k_mul) return product(in[0], in[1], pool);
  if (operation == Operation::k_div) {
    Gaussian inverse = in[1];
    std::vector<Tensor> points;
    static const float one = 1;
    for (int q = 0; q < kPoints && in[1].is_random(); ++q)
      points.push_back(at_point(in[1], q, pool));
    if (!points.empty()) points = kept_positive(points, pool);
    for (Tensor& point : points)
      point = binary(Operation::k_div, view_of(&one, {}), point, pool);
    if (points.empty())
      inverse.mean = binary(Operation::k_div, view_of(&one, {}), in[1].mean, pool);
    return product(in[0], moments_of(inverse, points, pool), pool);
  }
  if (operation == Operation::k_max) return maximum(in[0], in[1], pool);
  if (operation == Operation::k_min)
    return negative(maximum(negative(in[0], pool), negative(in[1], pool), pool), pool);
  if (operation == Operation::k_select) {
    if (in[0].is_random()) unknown("a choice between values of another origin");
    static const float zero = 0;
    const auto variance = [&](const Gaussian& x) {
      return x.is_random() ? x.variance : view_of(&zero, {});
    };
    Gaussian found{select(in[0].mean, in[1].mean, in[2].mean, pool), {}};
    found.variance = broadcast_to(
        select(in[0].mean, variance(in[1]), variance(in[2]), pool), found.mean.shape);
    return found;
  }
  if (is_comparison(operation))
    return {binary(operation, in[0].mean, in[1].mean, pool), {}};
  unknown("a power of two numbers");
}

const MomentPass::Spread& MomentPass::spread(int32_t at, const Runner::Multiplier& by) {
  const auto found = spreads_.find(at);
  if (found != spreads_.end() && by.computed.empty()) return found->second;
  Spread made;
  const size_t size = by.kernel->order().rank.size();
  const auto layer = runner_.layer_of(runner_.file().graph.nodes[at].inputs[1]);
  if (layer && !runner_.file().layers[*layer].sigma.empty()) {
    made.variances = by.kernel->arranged(runner_.file().layers[*layer].sigma.data());
    for (float& value : made.variances) value *= value;
  }
  made.squares.assign(by.values, by.values + size);
  for (size_t i = 0; i < size; ++i)
    made.squares[i] = made.squares[i] * made.squares[i] +
                      (made.variances.empty() ? 0 : made.variances[i]);
  return spreads_[at] = std::move(made);
}

Gaussian MomentPass::multiply(const Machine& machine, int32_t at,
                              const std::vector<Gaussian>& in) {
  const Window& window = runner_.window(at);
  const Pool& pool = machine.pool;
  if (in[1].is_random()) unknown("a kernel that is computed");
  const Runner::Multiplier by =
      runner_.multiplier(at, runner_.means(), in[1].mean, pool);
  const Spread& weights = spread(at, by);
  std::vector<float> scales;
  size_t next = 2;
  Operands operands{by.kernel.get(), by.values, nullptr, nullptr, nullptr, false};
  if (window.scaled) {
    operands.scale = channels(in[next++].mean, window.co);
    for (int64_t c = 0; c < window.co; ++c)
      scales.push_back(operands.scale[c] * operands.scale[c]);
  }
  if (window.shifted) operands.shift = channels(in[next++].mean, window.co);
  const Gaussian residual = window.added ? in[next] : Gaussian{};
  if (window.added) operands.residual = &residual.mean;
  Gaussian found{ssvi::product(machine, window, in[0].mean, operands), {}};
  operands.shift = nullptr;
  operands.scale = window.scaled ? scales.data() : nullptr;
  found.variance = residual.variance;
  const auto add = [&](const Tensor& x, const std::vector<float>& values) {
    operands.values = values.data();
    operands.residual = found.is_random() ? &found.variance : nullptr;
    found.variance = ssvi::product(machine, window, x, operands);
  };
  if (in[0].is_random()) add(in[0].variance, weights.squares);
  if (!weights.variances.empty())
    add(unary(Operation::k_square, in[0].mean, pool), weights.variances);
  if (!window.rectified) return found;
  static const float zero = 0;
  return maximum(found, {view_of(&zero, {}), {}}, pool);
}

MomentPass::Value MomentPass::pooled(const Machine& machine, int32_t at,
                                     const Value& in, int64_t n) {
  const Node& node = runner_.file().graph.nodes[at];
  const Pool& pool = machine.pool;
  const std::vector<Tensor> points = points_of(in, pool);
  const int rank = points[0].rank();
  Lengths positions, numbers;
  bool channels = false;
  for (const Number& number : node.numbers) numbers.push_back(number.of(n));
  const bool windows = node.operation == Operation::k_window_sum ||
                       node.operation == Operation::k_window_max;
  if (windows) {
    channels =
        rank > 0 && numbers.size() == size_t(5 * rank) && numbers[5 * rank - 5] != 1;
  } else {
    for (int64_t axis : numbers) {
      channels |= axis == rank - 1;
      if (axis != rank - 1) positions.push_back(axis);
    }
  }
  Value found;
  found.source = in.source;
  if (!channels) {
    for (const Tensor& point : points)
      found.points.push_back(
          runner_.compute(machine, runner_.means(), at, {point}, nullptr, n));
    return found;
  }
  if (node.operation != Operation::k_reduce_sum) unknown("a pooling of channels");
  std::vector<Tensor> sums;
  for (const Tensor& point : points)
    sums.push_back(reduce(node.operation, point, positions, pool));
  const Gaussian each = of_points(sums, pool);
  const Lengths last = {each.mean.rank() - 1};
  found.source = at;
  found.moments = {reduce(node.operation, each.mean, last, pool),
                   reduce(node.operation, each.variance, last, pool)};
  return found;
}

MomentPass::Value MomentPass::rearranged(const Machine& machine, int32_t at,
                                         const Values& in, int64_t n) {
  const Operation operation = runner_.file().graph.nodes[at].operation;
  const Pool& pool = machine.pool;
  Value found;
  found.source = at;
  std::vector<Gaussian> given;
  for (const Value* value : in)
    given.push_back(moments_of(value->moments, value->points, pool));
  // Of attention the probabilities would be further off than those of the means.
  if (operation == Operation::k_matmul) unknown("attention");
  if (operation == Operation::k_product) {
    found.moments = multiply(machine, at, given);
    return found;
  }
  static const float zero = 0;
  std::vector<Tensor> means, variances;
  for (size_t i = 0; i < in.size(); ++i) {
    means.push_back(given[i].mean);
    variances.push_back(given[i].is_random()
                            ? given[i].variance
                            : broadcast_to(view_of(&zero, {}), given[i].mean.shape));
  }
  found.moments = {
      runner_.compute(machine, runner_.means(), at, means, nullptr, n),
      runner_.compute(machine, runner_.means(), at, variances, nullptr, n)};
  const Lengths &before = means[0].shape, &after = found.moments.mean.shape;
  const bool same_channels =
      !before.empty() && !after.empty() && before.back() == after.back();
  const bool one = in.size() == 1 || operation == Operation::k_pad;
  if (!one || !same_channels || operation == Operation::k_transpose) return found;
  found.source = in[0]->source;
  for (const Tensor& point : in[0]->points) {
    std::vector<Tensor> arrays = means;
    arrays[0] = point;
    found.points.push_back(
        runner_.compute(machine, runner_.means(), at, arrays, nullptr, n));
  }
  return found;
}

std::vector<Tensor> MomentPass::points_of(const Value& value, const Pool& pool) {
  if (!value.points.empty()) return value.points;
  std::vector<Tensor> points;
  for (int q = 0; q < kPoints; ++q) points.push_back(at_point(value.moments, q, pool));
  return points;
}

}  // namespace ssvi
