// A model file, verified: the arrays and the graph that a prediction needs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "graph.h"

namespace ssvi {

// A Bayesian kernel: its kept weights.
struct Layer {
  std::vector<int64_t> shape;
  std::vector<int32_t> index;  // flat positions, ascending
  std::vector<float> mean;
  std::vector<float> sigma;  // empty: a point estimate
};

struct Array {
  std::vector<int64_t> shape;
  std::vector<float> values;
};

struct File {
  Graph graph;
  std::vector<Layer> layers;   // rows that nodes "kernel" name
  std::vector<Array> params;   // rows that nodes "param" name
  bool takes_pixels;           // whole numbers from 0 to 255
};

// Throws an Error on anything but a whole model file with a graph.
File read_file(const uint8_t* data, size_t size);

// The number of values of a shape, which may be hostile.
int64_t count(const std::vector<int64_t>& shape);

}  // namespace ssvi
