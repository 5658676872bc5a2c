#include "gaussian.h"

#include <algorithm>
#include <cmath>

namespace ssvi {
namespace {

constexpr float kFarBelow = -1e30f;  // what no maximum takes

struct Moment {
  double mean, variance;
};

Moment larger_of(double m1, double v1, double m2, double v2) {
  const double spread = std::sqrt(v1 + v2);
  const double distance = spread > 0 ? (m1 - m2) / spread : (m1 > m2 ? 1e9 : -1e9);
  if (distance > 12) return {m1, v1};
  if (distance < -12) return {m2, v2};
  const double first = 0.5 * std::erfc(-distance * 0.7071067811865476);
  const double density = 0.3989422804014327 * std::exp(-0.5 * distance * distance);
  const double mean = m1 * first + m2 * (1 - first) + spread * density;
  const double second = (m1 * m1 + v1) * first + (m2 * m2 + v2) * (1 - first) +
                        (m1 + m2) * spread * density;
  return {mean, std::max(0.0, second - mean * mean)};
}

Tensor variance_or_zeros(const Gaussian& x) {
  static const float zero = 0;
  return x.is_random() ? x.variance : view_of(&zero, {});
}

// Takes into `best` (in place) what is larger in `other`.
void take_larger(const Gaussian& best, const Gaussian& other, const Pool& pool) {
  for_runs({best.mean, best.variance, other.mean, other.variance}, pool,
           [](float* const* at, const int64_t* s, int64_t n) {
             for (int64_t i = 0; i < n; ++i) {
               float &mean = at[0][i * s[0]], &variance = at[1][i * s[1]];
               const Moment found =
                   larger_of(mean, variance, at[2][i * s[2]], at[3][i * s[3]]);
               mean = static_cast<float>(found.mean);
               variance = static_cast<float>(found.variance);
             }
           });
}

Gaussian lowest(const Lengths& shape, const Tensor& like, const Pool& pool) {
  const std::vector<int> order = order_of(like);
  Gaussian found{make(shape, order), make(shape, order)};
  fill(found.mean, kFarBelow, pool);
  fill(found.variance, 0, pool);
  return found;
}

}  // namespace

const std::array<float, kPoints> kNodes = {
    -4.51274586f, -3.20542900f, -2.07684798f, -1.02325566f, 0.0f,
    1.02325566f,  2.07684798f,  3.20542900f,  4.51274586f};
const std::array<float, kPoints> kWeights = {
    2.23458440e-5f, 2.78914132e-3f, 4.99164068e-2f, 2.44097503e-1f, 4.06349206e-1f,
    2.44097503e-1f, 4.99164068e-2f, 2.78914132e-3f, 2.23458440e-5f};

Tensor at_point(const Gaussian& x, int point, const Pool& pool) {
  Tensor out = make(x.mean.shape, order_of(x.mean));
  const float node = kNodes[point];
  for_runs({out, x.mean, x.variance}, pool,
           [node](float* const* at, const int64_t* s, int64_t n) {
             for (int64_t i = 0; i < n; ++i)
               at[0][i * s[0]] = at[1][i * s[1]] + node * std::sqrt(at[2][i * s[2]]);
           });
  return out;
}

Gaussian of_points(const std::vector<Tensor>& points, const Pool& pool) {
  const std::vector<int> order = order_of(points[0]);
  Gaussian found{make(points[0].shape, order), make(points[0].shape, order)};
  fill(found.mean, 0, pool);
  fill(found.variance, 0, pool);
  for (int q = 0; q < kPoints; ++q)
    for_runs({found.mean, points[q]}, pool,
             [q](float* const* at, const int64_t* s, int64_t n) {
               for (int64_t i = 0; i < n; ++i)
                 at[0][i * s[0]] += kWeights[q] * at[1][i * s[1]];
             });
  for (int q = 0; q < kPoints; ++q)
    for_runs({found.variance, found.mean, points[q]}, pool,
             [q](float* const* at, const int64_t* s, int64_t n) {
               for (int64_t i = 0; i < n; ++i) {
                 const float off = at[2][i * s[2]] - at[1][i * s[1]];
                 at[0][i * s[0]] += kWeights[q] * off * off;
               }
             });
  return found;
}

Gaussian maximum(const Gaussian& a, const Gaussian& b, const Pool& pool) {
  // What both are broadcast to; the sum itself is not used.
  const Lengths shape = binary(Operation::k_add, a.mean, b.mean, pool).shape;
  const Gaussian& larger = a.mean.size() >= b.mean.size() ? a : b;
  Gaussian found = lowest(shape, broadcast_to(larger.mean, shape), pool);
  for (const Gaussian& x : {a, b})
    take_larger(found,
                {broadcast_to(x.mean, shape), broadcast_to(variance_or_zeros(x), shape)},
                pool);
  return found;
}

Gaussian negative(const Gaussian& x, const Pool& pool) {
  return {unary(Operation::k_neg, x.mean, pool), x.variance};
}

Gaussian product(const Gaussian& a, const Gaussian& b, const Pool& pool) {
  const auto times = [&](const Tensor& x, const Tensor& y) {
    return binary(Operation::k_mul, x, y, pool);
  };
  const auto square = [&](const Tensor& x) { return unary(Operation::k_square, x, pool); };
  Gaussian found{times(a.mean, b.mean), {}};
  const auto add = [&](const Tensor& term) {
    found.variance = found.is_random()
                         ? binary(Operation::k_add, found.variance, term, pool)
                         : term;
  };
  if (a.is_random()) add(times(a.variance, square(b.mean)));
  if (b.is_random()) add(times(square(a.mean), b.variance));
  if (a.is_random() && b.is_random()) add(times(a.variance, b.variance));
  return found;
}

}  // namespace ssvi
