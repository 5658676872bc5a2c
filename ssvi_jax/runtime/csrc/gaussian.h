// Arrays of Gaussian numbers, each independent of the others.
#pragma once

#include <array>
#include <vector>

#include "operations.h"
#include "tensor.h"

namespace ssvi {

struct Gaussian {
  Tensor mean, variance;  // of one shape; without a variance it is no random number
  bool is_random() const { return variance.data != nullptr; }
};

// Nodes and weights of the Gauss–Hermite quadrature for N(0, 1).
constexpr int kPoints = 9;
extern const std::array<float, kPoints> kNodes, kWeights;

// mean + node · standard deviation.
Tensor at_point(const Gaussian& x, int point, const Pool& pool);
// The moments of what was computed at every point.
Gaussian of_points(const std::vector<Tensor>& points, const Pool& pool);

// The larger one of two, whose moments are exact (Clark 1961); a variance may miss.
Gaussian maximum(const Gaussian& a, const Gaussian& b, const Pool& pool);
Gaussian negative(const Gaussian& x, const Pool& pool);
Gaussian product(const Gaussian& a, const Gaussian& b, const Pool& pool);
}  // namespace ssvi
