#include "product.h"

#include <algorithm>

#include "errors.h"

namespace ssvi {
namespace {

constexpr int64_t kMaxSide = 1 << 16, kMaxKernel = (int64_t{1} << 31) - 1;
constexpr int kNumbers = 14;

[[noreturn]] void mismatch() { bad_file("its graph does not fit together"); }

const std::vector<int> kBatchLast = {1, 2, 3, 0};

}  // namespace

Window window_of(const Node& node) {
  if (node.numbers.size() != kNumbers) mismatch();
  int64_t p[kNumbers];
  for (int i = 0; i < kNumbers; ++i) {
    p[i] = node.numbers[i].constant;
    const int64_t least = i >= 6 && i < 10 ? 0 : i == 13 ? 0 : 1;
    const int64_t most = i == 2 || i == 3 || i == 12 ? int64_t{1} << 24 : kMaxSide;
    if (node.numbers[i].each != 0 || p[i] < least || p[i] > most) mismatch();
  }
  const bool scaled = p[13] & 1, shifted = p[13] & 2, added = p[13] & 4;
  Window w{p[0], p[1], p[2], p[3], p[4],  p[5],  p[6],   p[7],    p[8],
           p[9], p[10], p[11], p[12], scaled, shifted, added, (p[13] & 8) != 0};
  const double size = double(w.rows()) * double(w.columns()) * double(w.inputs());
  if (size * double(w.co) > double(kMaxKernel) || w.co % w.groups != 0) mismatch();
  if (node.inputs.size() != size_t(2 + scaled + shifted + added)) mismatch();
  return w;
}

const float* channels(const Tensor& x, int64_t size) {
  if (x.rank() != 1 || x.shape[0] != size || x.strides[0] != 1) mismatch();
  return x.data;
}

std::vector<int32_t> widened(const Window& w, const std::vector<int32_t>& index) {
  if (w.groups == 1 && w.dh == 1 && w.dw == 1) return index;
  std::vector<int32_t> wide;
  wide.reserve(index.size());
  for (int64_t flat : index) {
    const int64_t co = flat % w.co, ci = flat / w.co % w.ci;
    const int64_t tap = flat / w.co / w.ci, row = tap / w.kw, column = tap % w.kw;
    const int64_t group = co / (w.co / w.groups);
    const int64_t line = (row * w.dh * w.columns() + column * w.dw) * w.inputs();
    wide.push_back(static_cast<int32_t>((line + group * w.ci + ci) * w.co + co));
  }
  return wide;
}

Tensor product(const Machine& machine, const Window& w, const Tensor& x,
               const Operands& operands, Visits& visits) {
  if (x.rank() != 4 || x.shape[3] != w.inputs()) mismatch();
  const int64_t n = x.shape[0], height = x.shape[1], width = x.shape[2];
  const int64_t room_h = height + w.top + w.bottom - w.rows();
  const int64_t room_w = width + w.left + w.right - w.columns();
  if (room_h < 0 || room_w < 0) mismatch();
  const Shape shape{n,       w.inputs(),  height, width, w.co,  room_h / w.sh + 1, room_w / w.sw + 1,
                    w.rows(), w.columns(), w.sh,   w.sw,  w.top, w.left};
  const Lengths out_shape = {n, shape.p, shape.q, w.co};
  const Tensor images = ordered(x, kBatchLast, machine.pool);
  Tensor residual;
  if (operands.residual != nullptr) {
    if (operands.residual->shape != out_shape) mismatch();
    residual = ordered(*operands.residual, kBatchLast, machine.pool);
  }
  Tensor out = make(out_shape, kBatchLast);
  const auto size = static_cast<int64_t>(operands.index->size());
  if (visits.n != n || visits.h != height || visits.w != width) {
    const Kernel kernel{operands.index->data(), operands.values, nullptr, size,
                        operands.scale};
    visits.entries.resize(size);
    visits.table.resize(mean_table(shape));
    list_mean(machine, shape, kernel, visits.entries.data(), visits.table.data());
    visits.n = n, visits.h = height, visits.w = width;
  }
  const Epilogue epilogue{operands.shift,
                          operands.residual == nullptr ? nullptr : residual.data,
                          operands.rectified};
  mean(machine, shape, visits.entries.data(), visits.table.data(), size, images.data,
       epilogue, out.data);
  return out;
}

}  // namespace ssvi
