#include "operations.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "errors.h"

namespace ssvi {
namespace {

[[noreturn]] void mismatch() { bad_file("its graph does not fit together"); }

// The elementwise operations, each in a loop of its own that the compiler vectorizes.
template <typename Body>
Tensor map1(const Tensor& x, const Pool& pool, Body body) {
  Tensor out = make(x.shape, order_of(x));
  for_runs({out, x}, pool, [body](float* const* at, const int64_t* s, int64_t n) {
    float* to = at[0];
    const float* in = at[1];
    if (s[0] == 1 && s[1] == 1) {
      for (int64_t i = 0; i < n; ++i) to[i] = body(in[i]);
    } else {
      for (int64_t i = 0; i < n; ++i) to[i * s[0]] = body(in[i * s[1]]);
    }
  });
  return out;
}

template <typename Body>
void run2(float* const* at, const int64_t* s, int64_t n, Body body) {
  float* to = at[0];
  const float *a = at[1], *b = at[2];
  if (s[0] == 1 && s[1] == 1 && s[2] == 1) {
    for (int64_t i = 0; i < n; ++i) to[i] = body(a[i], b[i]);
  } else if (s[0] == 1 && s[1] == 1 && s[2] == 0) {
    const float value = *b;
    for (int64_t i = 0; i < n; ++i) to[i] = body(a[i], value);
  } else if (s[0] == 1 && s[1] == 0 && s[2] == 1) {
    const float value = *a;
    for (int64_t i = 0; i < n; ++i) to[i] = body(value, b[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) to[i * s[0]] = body(a[i * s[1]], b[i * s[2]]);
  }
}

Lengths common_shape(const std::vector<Tensor>& operands) {
  size_t rank = 0;
  for (const Tensor& x : operands) rank = std::max(rank, x.shape.size());
  Lengths shape(rank, 1);
  for (const Tensor& x : operands) {
    const size_t missing = rank - x.shape.size();
    for (size_t i = 0; i < x.shape.size(); ++i) {
      int64_t& length = shape[missing + i];
      if (length == 1)
        length = x.shape[i];
      else if (x.shape[i] != 1 && x.shape[i] != length)
        mismatch();
    }
  }
  return shape;
}

// A new array in the memory order of the largest operand.
Tensor make_like(const std::vector<Tensor>& operands, const Lengths& shape) {
  const Tensor* largest = &operands[0];
  for (const Tensor& x : operands)
    if (x.size() > largest->size()) largest = &x;
  return make(shape, order_of(broadcast_to(*largest, shape)));
}

template <typename Body>
Tensor map2(const Tensor& a, const Tensor& b, const Pool& pool, Body body) {
  const Lengths shape = common_shape({a, b});
  Tensor out = make_like({a, b}, shape);
  for_runs({out, broadcast_to(a, shape), broadcast_to(b, shape)}, pool,
           [body](float* const* at, const int64_t* s, int64_t n) {
             run2(at, s, n, body);
           });
  return out;
}

// JAX's: NaN stays NaN.
inline float larger(float a, float b) { return a > b || std::isnan(a) ? a : b; }
inline float smaller(float a, float b) { return a < b || std::isnan(a) ? a : b; }

}  // namespace

bool is_unary(Operation operation) {
  return operation >= Operation::k_neg && operation <= Operation::k_is_finite;
}

bool is_binary(Operation operation) {
  return operation >= Operation::k_add && operation <= Operation::k_or;
}

// Calls `with(body)` with the body of a unary operation, a function of one number.
template <typename With>
static auto with_unary(Operation operation, With with) {
  switch (operation) {
    case Operation::k_neg: return with([](float x) { return -x; });
    case Operation::k_abs: return with([](float x) { return std::fabs(x); });
    case Operation::k_sign:
      return with([](float x) { return x > 0 ? 1.0f : x < 0 ? -1.0f : x; });
    case Operation::k_floor: return with([](float x) { return std::floor(x); });
    case Operation::k_ceil: return with([](float x) { return std::ceil(x); });
    case Operation::k_round: return with([](float x) { return std::nearbyint(x); });
    case Operation::k_trunc: return with([](float x) { return std::trunc(x); });
    case Operation::k_exp: return with([](float x) { return std::exp(x); });
    case Operation::k_exp2: return with([](float x) { return std::exp2(x); });
    case Operation::k_expm1: return with([](float x) { return std::expm1(x); });
    case Operation::k_log: return with([](float x) { return std::log(x); });
    case Operation::k_log1p: return with([](float x) { return std::log1p(x); });
    case Operation::k_tanh: return with([](float x) { return std::tanh(x); });
    case Operation::k_logistic:
      return with([](float x) { return 1.0f / (1.0f + std::exp(-x)); });
    case Operation::k_sqrt: return with([](float x) { return std::sqrt(x); });
    case Operation::k_rsqrt: return with([](float x) { return 1.0f / std::sqrt(x); });
    case Operation::k_cbrt: return with([](float x) { return std::cbrt(x); });
    case Operation::k_erf: return with([](float x) { return std::erf(x); });
    case Operation::k_erfc: return with([](float x) { return std::erfc(x); });
    case Operation::k_sin: return with([](float x) { return std::sin(x); });
    case Operation::k_cos: return with([](float x) { return std::cos(x); });
    case Operation::k_square: return with([](float x) { return x * x; });
    case Operation::k_not: return with([](float x) { return x == 0 ? 1.0f : 0.0f; });
    case Operation::k_is_finite:
      return with([](float x) { return std::isfinite(x) ? 1.0f : 0.0f; });
    default: mismatch();
  }
}

Tensor unary(Operation operation, const Tensor& x, const Pool& pool) {
  return with_unary(operation, [&](auto body) { return map1(x, pool, body); });
}

float apply(Operation operation, float x) {
  return with_unary(operation, [x](auto body) { return body(x); });
}

Tensor binary(Operation operation, const Tensor& a, const Tensor& b, const Pool& pool) {
  const auto with = [&](auto body) { return map2(a, b, pool, body); };
  switch (operation) {
    case Operation::k_add: return with([](float a, float b) { return a + b; });
    case Operation::k_sub: return with([](float a, float b) { return a - b; });
    case Operation::k_mul: return with([](float a, float b) { return a * b; });
    case Operation::k_div: return with([](float a, float b) { return a / b; });
    case Operation::k_max: return with([](float a, float b) { return larger(a, b); });
    case Operation::k_min: return with([](float a, float b) { return smaller(a, b); });
    case Operation::k_pow: return with([](float a, float b) { return std::pow(a, b); });
    case Operation::k_eq: return with([](float a, float b) { return float(a == b); });
    case Operation::k_ne: return with([](float a, float b) { return float(a != b); });
    case Operation::k_lt: return with([](float a, float b) { return float(a < b); });
    case Operation::k_le: return with([](float a, float b) { return float(a <= b); });
    case Operation::k_gt: return with([](float a, float b) { return float(a > b); });
    case Operation::k_ge: return with([](float a, float b) { return float(a >= b); });
    case Operation::k_and:
      return with([](float a, float b) { return float(a != 0 && b != 0); });
    case Operation::k_or:
      return with([](float a, float b) { return float(a != 0 || b != 0); });
    default: mismatch();
  }
}

Tensor select(const Tensor& which, const Tensor& no, const Tensor& yes,
              const Pool& pool) {
  const Lengths shape = common_shape({which, no, yes});
  Tensor out = make_like({no, yes, which}, shape);
  for_runs({out, broadcast_to(which, shape), broadcast_to(no, shape),
            broadcast_to(yes, shape)},
           pool, [](float* const* at, const int64_t* s, int64_t n) {
             for (int64_t i = 0; i < n; ++i)
               at[0][i * s[0]] = at[1][i * s[1]] != 0 ? at[3][i * s[3]] : at[2][i * s[2]];
           });
  return out;
}

Tensor reduce(Operation operation, const Tensor& x, const Lengths& axes,
              const Pool& pool) {
  std::vector<bool> gone(x.shape.size(), false);
  for (int64_t axis : axes) {
    if (axis < 0 || axis >= x.rank() || gone[axis]) mismatch();
    gone[axis] = true;
  }
  Tensor kept = x, summed = x;  // views of the axes that stay, and of those that go
  kept.shape.clear(), kept.strides.clear(), summed.shape.clear(), summed.strides.clear();
  for (int i = 0; i < x.rank(); ++i) {
    Tensor& view = gone[i] ? summed : kept;
    view.shape.push_back(x.shape[i]);
    view.strides.push_back(x.strides[i]);
  }
  Tensor out = make(kept.shape, order_of(kept));
  const Pool alone;
  for_runs({out, kept}, pool, [&](float* const* at, const int64_t* s, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      Tensor mine = summed;
      mine.data = at[1] + i * s[1];
      const float infinity = std::numeric_limits<float>::infinity();
      double sum = 0;
      float best = operation == Operation::k_reduce_max ? -infinity : infinity;
      for_runs({mine}, alone, [&](float* const* from, const int64_t* step, int64_t m) {
        for (int64_t k = 0; k < m; ++k) {
          const float value = from[0][k * step[0]];
          if (operation == Operation::k_reduce_sum) {
            sum += value;
          } else {
            best = operation == Operation::k_reduce_max ? larger(value, best)
                                                        : smaller(value, best);
          }
        }
      });
      at[0][i * s[0]] = operation == Operation::k_reduce_sum ? float(sum) : best;
    }
  });
  return out;
}

Tensor reduce_window(Operation operation, const Tensor& x, const Lengths& numbers,
                     const Pool& pool) {
  const size_t rank = x.shape.size();
  if (numbers.size() != 5 * rank) mismatch();
  Lengths shape(rank);
  int64_t taps = 1;
  for (size_t i = 0; i < rank; ++i) {
    const int64_t *p = &numbers[5 * i], size = p[0], step = p[1], dilation = p[4];
    const int64_t longest = int64_t{1} << 20;
    for (int k = 0; k < 5; ++k)
      if (p[k] < (k == 2 || k == 3 ? 0 : 1) || p[k] > longest) mismatch();
    const int64_t reach = (size - 1) * dilation + 1;
    shape[i] = x.shape[i] + p[2] + p[3] < reach
                   ? 0
                   : (x.shape[i] + p[2] + p[3] - reach) / step + 1;
    taps *= size;
    if (taps > longest) mismatch();
  }
  Tensor out = make(shape, order_of(x));
  const bool sums = operation == Operation::k_window_sum;
  fill(out, sums ? 0.0f : -std::numeric_limits<float>::infinity(), pool);
  for (int64_t tap = 0; tap < taps; ++tap) {
    Lengths from, to;
    int64_t rest = tap;
    for (size_t i = rank; i-- > 0;) {
      const int64_t* p = &numbers[5 * i];
      const int64_t first = rest % p[0] * p[4] - p[2];  // input of output 0
      rest /= p[0];
      const int64_t low = first < 0 ? (-first + p[1] - 1) / p[1] : 0;
      const int64_t left = x.shape[i] - 1 - first;
      const int64_t high = left < 0 ? 0 : std::min(shape[i], left / p[1] + 1);
      if (low >= high) {
        from.clear();
        break;
      }
      const int64_t begin = first + low * p[1];
      const int64_t end = first + (high - 1) * p[1] + 1;
      from.insert(from.begin(), {begin, end, p[1]});
      to.insert(to.begin(), {low, high, 1});
    }
    if (from.size() != 3 * rank) continue;  // this tap meets no input
    const Tensor target = slice(out, to);
    for_runs({target, target, slice(x, from)}, pool,
             [sums](float* const* at, const int64_t* s, int64_t n) {
               if (sums)
                 run2(at, s, n, [](float a, float b) { return a + b; });
               else
                 run2(at, s, n, [](float a, float b) { return larger(a, b); });
             });
  }
  return out;
}

Tensor pad(const Tensor& x, float value, const Lengths& edges, const Pool& pool) {
  if (edges.size() != 3 * x.shape.size()) mismatch();
  Lengths shape, from, to;
  for (int i = 0; i < x.rank(); ++i) {
    const int64_t low = edges[3 * i], high = edges[3 * i + 1];
    const int64_t step = edges[3 * i + 2] + 1, longest = int64_t{1} << 24;
    if (std::max(std::abs(low), std::abs(high)) > longest || step < 1 || step > longest)
      mismatch();
    const int64_t spread = x.shape[i] == 0 ? 0 : (x.shape[i] - 1) * step + 1;
    shape.push_back(spread + low + high);
    if (shape.back() < 0) mismatch();
    // Entry k lies at low + k · step, if that is within the result.
    const int64_t first = low < 0 ? (-low + step - 1) / step : 0;
    const int64_t room = shape.back() - 1 - low;
    const int64_t end = room < 0 ? 0 : std::min(x.shape[i], room / step + 1);
    const int64_t stop = std::max(first, end);
    from.insert(from.end(), {std::min(first, x.shape[i]), std::min(stop, x.shape[i]), 1});
    const bool none = from[3 * i] >= from[3 * i + 1];
    const int64_t begin = none ? 0 : low + first * step;
    to.insert(to.end(), {begin, none ? begin : low + (stop - 1) * step + 1, step});
  }
  Tensor out = make(shape, order_of(x));
  fill(out, value, pool);
  copy(slice(x, from), slice(out, to), pool);
  return out;
}

Tensor concatenate(const std::vector<Tensor>& parts, int64_t axis, const Pool& pool) {
  if (parts.empty() || axis < 0 || axis >= parts[0].rank()) mismatch();
  Lengths shape = parts[0].shape;
  shape[axis] = 0;
  for (const Tensor& part : parts) {
    Lengths rest = part.shape;
    if (rest.size() != shape.size()) mismatch();
    shape[axis] += rest[axis];
    rest[axis] = shape[axis];
    if (rest != shape) mismatch();
  }
  Tensor out = make(shape, order_of(parts[0]));
  int64_t start = 0;
  for (const Tensor& part : parts) {
    Tensor target = out;
    target.shape = part.shape;
    target.data += start * out.strides[axis];
    copy(part, target, pool);
    start += part.shape[axis];
  }
  return out;
}

Tensor matmul(const Tensor& a, const Tensor& b, const Pool& pool) {
  const bool fits = a.rank() == 3 && b.rank() == 3 && a.shape[0] == b.shape[0] &&
                    a.shape[2] == b.shape[1];
  if (!fits) mismatch();
  const int64_t groups = a.shape[0], m = a.shape[1], k = a.shape[2], n = b.shape[2];
  Tensor out = make({groups, m, n});
  const Tensor x = row_major(a, pool), y = row_major(b, pool);
  parallel_for(pool, groups, [&](int64_t g) {
    for (int64_t i = 0; i < m; ++i) {
      float* row = out.data + (g * m + i) * n;
      std::fill_n(row, n, 0.0f);
      for (int64_t j = 0; j < k; ++j) {
        const float factor = x.data[(g * m + i) * k + j];
        const float* from = y.data + (g * k + j) * n;
        for (int64_t c = 0; c < n; ++c) row[c] += factor * from[c];
      }
    }
  });
  return out;
}

}  // namespace ssvi
