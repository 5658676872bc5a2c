#include "tensor.h"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <numeric>

#include "errors.h"

namespace ssvi {
namespace {

constexpr int64_t kMaxElements = int64_t{1} << 27;
constexpr int64_t kTask = 1 << 15;  // elements that are worth a thread's while
constexpr int kMaxArrays = 4;

[[noreturn]] void mismatch() { bad_file("its graph does not fit together"); }

// The axes of several arrays in the order of the first's memory, those of length 1 left
// out and neighbours that are one run in all of them merged.
struct Axis {
  int64_t length;
  std::array<int64_t, kMaxArrays> strides;
};

std::vector<Axis> merged_axes(const std::vector<Tensor>& arrays) {
  std::vector<Axis> axes;
  for (int axis : order_of(arrays[0])) {
    Axis next{arrays[0].shape[axis], {}};
    if (next.length == 1) continue;
    for (size_t i = 0; i < arrays.size(); ++i) next.strides[i] = arrays[i].strides[axis];
    const auto continues = [&](const Axis& outer) {
      for (size_t i = 0; i < arrays.size(); ++i)
        if (outer.strides[i] != next.strides[i] * next.length) return false;
      return true;
    };
    if (!axes.empty() && continues(axes.back())) {
      axes.back().length *= next.length;
      axes.back().strides = next.strides;
    } else {
      axes.push_back(next);
    }
  }
  if (axes.empty()) axes.push_back({1, {}});
  return axes;
}

thread_local std::shared_ptr<Memory> memory_in_use;

}  // namespace

Memory::~Memory() {
  for (auto& [bytes, data] : free_) std::free(data);
}

float* Memory::take(size_t bytes) {
  const auto found = free_.find(bytes);
  if (found != free_.end()) {
    float* data = found->second;
    free_.erase(found);
    return data;
  }
  auto* data = static_cast<float*>(std::aligned_alloc(64, bytes));
  if (data == nullptr) throw std::bad_alloc();
  return data;
}

void Memory::give(float* data, size_t bytes) {
  try {
    free_.emplace(bytes, data);
  } catch (...) {  // no memory to keep it by
    std::free(data);
  }
}

Memory::Use::Use(const std::shared_ptr<Memory>& memory) : before_(memory_in_use) {
  memory_in_use = memory;
}

Memory::Use::~Use() { memory_in_use = before_; }

int64_t Tensor::size() const {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

int64_t checked_size(const Lengths& shape) {
  if (shape.size() > kMaxRank) mismatch();
  int64_t size = 1;
  for (int64_t length : shape) {
    if (length < 0) mismatch();
    if (length > 0 && size > kMaxElements / length)
      bad_file("its graph needs more memory than this version allows");
    size *= length;
  }
  return size;
}

Tensor make(const Lengths& shape, const std::vector<int>& order) {
  const int64_t size = checked_size(shape);
  Tensor x;
  x.shape = shape;
  x.strides.assign(shape.size(), 0);
  const size_t bytes = (size * sizeof(float) + 64) / 64 * 64;
  const std::shared_ptr<Memory> memory =
      memory_in_use == nullptr ? std::make_shared<Memory>() : memory_in_use;
  x.owner.reset(memory->take(bytes),
                [memory, bytes](float* data) { memory->give(data, bytes); });
  x.data = x.owner.get();
  int64_t stride = 1;
  for (int i = x.rank() - 1; i >= 0; --i) {
    const int axis = order.empty() ? i : order[i];
    x.strides[axis] = stride;
    stride *= shape[axis];
  }
  return x;
}

Tensor view_of(const float* data, const Lengths& shape) {
  Tensor x;
  x.data = const_cast<float*>(data);  // nobody writes to what a node reads
  x.shape = shape;
  x.strides.assign(shape.size(), 0);
  int64_t stride = 1;
  for (int i = x.rank() - 1; i >= 0; --i) x.strides[i] = stride, stride *= shape[i];
  return x;
}

std::vector<int> order_of(const Tensor& x) {
  std::vector<int> order(x.rank());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    return std::abs(x.strides[a]) > std::abs(x.strides[b]);
  });
  return order;
}

Tensor ordered(const Tensor& x, const std::vector<int>& order, const Pool& pool) {
  int64_t stride = 1;
  bool lies_so = true;
  for (int i = x.rank() - 1; i >= 0; --i) {
    const int axis = order[i];
    lies_so &= x.shape[axis] == 1 || x.strides[axis] == stride;
    stride *= x.shape[axis];
  }
  if (lies_so) return x;
  Tensor out = make(x.shape, order);
  copy(x, out, pool);
  return out;
}

Tensor row_major(const Tensor& x, const Pool& pool) {
  std::vector<int> order(x.rank());
  std::iota(order.begin(), order.end(), 0);
  return ordered(x, order, pool);
}

Tensor broadcast_to(const Tensor& x, const Lengths& shape) {
  if (x.shape.size() > shape.size()) mismatch();
  checked_size(shape);
  Tensor out = x;
  out.shape = shape;
  out.strides.assign(shape.size(), 0);
  const int missing = static_cast<int>(shape.size()) - x.rank();
  for (int i = 0; i < x.rank(); ++i) {
    if (x.shape[i] == shape[missing + i])
      out.strides[missing + i] = x.strides[i];
    else if (x.shape[i] != 1)
      mismatch();
  }
  return out;
}

Tensor reshape(const Tensor& x, const Lengths& shape, const Pool& pool) {
  if (checked_size(shape) != x.size()) mismatch();
  Tensor out = x;
  out.shape = shape;
  out.strides.assign(shape.size(), 0);
  if (x.size() == 0) return make(shape);
  // Groups of axes of equal sizes on both sides; those of x must be one run each.
  int i = 0, j = 0;
  const int rank = static_cast<int>(shape.size());
  while (i < x.rank() || j < rank) {
    int64_t old_size = 1, new_size = 1;
    const int i0 = i, j0 = j;
    if (i < x.rank()) old_size = x.shape[i++];
    if (j < rank) new_size = shape[j++];
    while (old_size != new_size) {
      if (old_size < new_size)
        old_size *= x.shape[i++];
      else
        new_size *= shape[j++];
    }
    int64_t stride = 0, expected = 0;
    bool is_known = false;
    for (int k = i - 1; k >= i0; --k) {
      if (x.shape[k] == 1) continue;
      if (!is_known) {
        stride = expected = x.strides[k];
        is_known = true;
      } else if (x.strides[k] != expected) {
        return reshape(row_major(x, pool), shape, pool);
      }
      expected *= x.shape[k];
    }
    for (int k = j - 1; k >= j0; --k) out.strides[k] = stride, stride *= shape[k];
  }
  return out;
}

Tensor transpose(const Tensor& x, const Lengths& axes) {
  if (axes.size() != x.shape.size()) mismatch();
  Tensor out = x;
  std::vector<bool> seen(axes.size(), false);
  for (size_t i = 0; i < axes.size(); ++i) {
    if (axes[i] < 0 || axes[i] >= x.rank() || seen[axes[i]]) mismatch();
    seen[axes[i]] = true;
    out.shape[i] = x.shape[axes[i]];
    out.strides[i] = x.strides[axes[i]];
  }
  return out;
}

Tensor reverse(const Tensor& x, const Lengths& axes) {
  Tensor out = x;
  for (int64_t axis : axes) {
    if (axis < 0 || axis >= x.rank()) mismatch();
    if (x.shape[axis] == 0) continue;
    out.data += (x.shape[axis] - 1) * out.strides[axis];
    out.strides[axis] = -out.strides[axis];
  }
  return out;
}

Tensor slice(const Tensor& x, const Lengths& bounds) {
  if (bounds.size() != 3 * x.shape.size()) mismatch();
  Tensor out = x;
  for (int i = 0; i < x.rank(); ++i) {
    const int64_t start = bounds[3 * i], stop = bounds[3 * i + 1];
    const int64_t step = bounds[3 * i + 2];
    if (start < 0 || start > stop || stop > x.shape[i] || step < 1) mismatch();
    out.shape[i] = (stop - start + step - 1) / step;
    if (out.shape[i] > 0) out.data += start * x.strides[i];
    out.strides[i] = x.strides[i] * step;
  }
  return out;
}

void for_runs(const std::vector<Tensor>& arrays, const Pool& pool, const Run& run) {
  if (arrays[0].size() == 0) return;
  const std::vector<Axis> axes = merged_axes(arrays);
  const Axis inner = axes.back();
  int64_t outer = 1;
  for (size_t i = 0; i + 1 < axes.size(); ++i) outer *= axes[i].length;
  const int64_t each = std::max<int64_t>(1, kTask / inner.length);
  parallel_for(pool, (outer + each - 1) / each, [&](int64_t task) {
    float* at[kMaxArrays];
    const int64_t end = std::min(outer, (task + 1) * each);
    for (int64_t k = task * each; k < end; ++k) {
      for (size_t i = 0; i < arrays.size(); ++i) at[i] = arrays[i].data;
      int64_t rest = k;
      for (size_t a = axes.size() - 1; a-- > 0;) {
        const int64_t place = rest % axes[a].length;
        rest /= axes[a].length;
        for (size_t i = 0; i < arrays.size(); ++i) at[i] += place * axes[a].strides[i];
      }
      run(at, inner.strides.data(), inner.length);
    }
  });
}

void copy(const Tensor& from, const Tensor& to, const Pool& pool) {
  for_runs({to, from}, pool, [](float* const* at, const int64_t* strides, int64_t n) {
    float* out = at[0];
    const float* in = at[1];
    if (strides[0] == 1 && strides[1] == 1) {
      std::copy_n(in, n, out);
    } else {
      for (int64_t i = 0; i < n; ++i) out[i * strides[0]] = in[i * strides[1]];
    }
  });
}

void fill(const Tensor& to, float value, const Pool& pool) {
  for_runs({to}, pool, [value](float* const* at, const int64_t* strides, int64_t n) {
    for (int64_t i = 0; i < n; ++i) at[0][i * strides[0]] = value;
  });
}

}  // namespace ssvi
