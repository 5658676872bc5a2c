// Arrays with strides, as NumPy has them: a transpose or a slice moves no numbers.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "parallel.h"

namespace ssvi {

constexpr int kMaxRank = 8;
using Lengths = std::vector<int64_t>;

// Memory of arrays that are gone, for those that come: the system would hand out and take
// back the same pages for every node.
class Memory {
 public:
  Memory() = default;
  Memory(const Memory&) = delete;
  ~Memory();
  float* take(size_t bytes);
  void give(float* data, size_t bytes);

  // While it exists, this thread's new arrays are made of the memory.
  class Use {
   public:
    explicit Use(const std::shared_ptr<Memory>& memory);
    ~Use();
    Use(const Use&) = delete;

   private:
    std::shared_ptr<Memory> before_;
  };

 private:
  std::multimap<size_t, float*> free_;
};

struct Tensor {
  std::shared_ptr<float> owner;  // null: the memory is somebody else's
  float* data = nullptr;
  Lengths shape, strides;

  int rank() const { return static_cast<int>(shape.size()); }
  int64_t size() const;
};

// The number of elements, or an Error where they are too many.
int64_t checked_size(const Lengths& shape);

// A new array. Its axes lie in memory in this order, the last one contiguous; without an
// order as they are.
Tensor make(const Lengths& shape, const std::vector<int>& order = {});
// A row-major array in memory that outlives it.
Tensor view_of(const float* data, const Lengths& shape);

// The order in which the axes lie in memory, the largest stride first.
std::vector<int> order_of(const Tensor& x);

// The array itself if its axes lie in this order without gaps, else a copy.
Tensor ordered(const Tensor& x, const std::vector<int>& order, const Pool& pool);
Tensor row_major(const Tensor& x, const Pool& pool);

// As if of a larger shape (an Error if it does not broadcast): strides of 0.
Tensor broadcast_to(const Tensor& x, const Lengths& shape);

Tensor reshape(const Tensor& x, const Lengths& shape, const Pool& pool);
Tensor transpose(const Tensor& x, const Lengths& axes);
Tensor reverse(const Tensor& x, const Lengths& axes);
// start, stop, step of each axis.
Tensor slice(const Tensor& x, const Lengths& bounds);

void copy(const Tensor& from, const Tensor& to, const Pool& pool);
void fill(const Tensor& to, float value, const Pool& pool);

// Runs of up to three arrays of one shape (strides may be 0) along the axis in which the
// first lies in memory: run(pointers, strides, length). In parallel, each run by itself.
using Run = std::function<void(float* const*, const int64_t*, int64_t)>;
void for_runs(const std::vector<Tensor>& arrays, const Pool& pool, const Run& run);

}  // namespace ssvi
