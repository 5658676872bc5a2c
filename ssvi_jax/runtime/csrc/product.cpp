#include "product.h"

#include <algorithm>

#include "errors.h"

namespace ssvi {
namespace {

constexpr int64_t kMaxSide = 1 << 16, kMaxKernel = (int64_t{1} << 31) - 1;
constexpr int kNumbers = 14;

[[noreturn]] void mismatch() { bad_file("its graph does not fit together"); }

constexpr double kMaxPacked = 1 << 27;
// Sizes of images, or of batches of dense layers, that a kernel keeps lists of.
constexpr size_t kMaxLists = 4;

// Functions: a process may end, and destroy what is global, while a thread predicts.
std::vector<int> by_channels() { return {0, 3, 1, 2}; }
Lengths as_row() { return {1, 2, 0, 3}; }
Lengths as_batch() { return {2, 0, 1, 3}; }

// As positions in the kernel of one group, its taps side by side.
std::vector<int32_t> widened(const Window& w, std::vector<int32_t> index) {
  if (w.groups == 1 && w.dh == 1 && w.dw == 1) return index;
  for (int32_t& position : index) {
    const int64_t flat = position, co = flat % w.co, ci = flat / w.co % w.ci;
    const int64_t tap = flat / w.co / w.ci, row = tap / w.kw, column = tap % w.kw;
    const int64_t group = co / (w.co / w.groups);
    const int64_t line = (row * w.dh * w.columns() + column * w.dw) * w.inputs();
    position = static_cast<int32_t>((line + group * w.ci + ci) * w.co + co);
  }
  return index;
}

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
  Window w{p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9], p[10], p[11],
           p[12], scaled, shifted, added, (p[13] & 8) != 0};
  const double size = double(w.rows()) * double(w.columns()) * double(w.inputs());
  if (size * double(w.co) > double(kMaxKernel) || w.co % w.groups != 0) mismatch();
  if (node.inputs.size() != size_t(2 + scaled + shifted + added)) mismatch();
  return w;
}

const float* channels(const Tensor& x, int64_t size) {
  if (x.rank() != 1 || x.shape[0] != size || x.strides[0] != 1) mismatch();
  return x.data;
}

SparseKernel::SparseKernel(const Window& window, std::vector<int32_t> index)
    : index_(widened(window, std::move(index))) {
  const int64_t all = window.rows() * window.columns() * window.inputs() * window.co;
  order_ =
      order_planes(all, window.co, index_.data(), static_cast<int64_t>(index_.size()));
}

std::vector<float> SparseKernel::arranged(const float* values) const {
  std::vector<float> out(index_.size());
  for (size_t k = 0; k < out.size(); ++k) out[order_.rank[k]] = values[k];
  return out;
}

std::shared_ptr<const SparseKernel::List> SparseKernel::list(
    const Planes& planes) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const std::pair<int64_t, int64_t> size{planes.shape.h, planes.shape.w};
  const auto found = lists_.find(size);
  if (found != lists_.end()) return found->second;
  if (lists_.size() == kMaxLists) lists_.clear();
  const auto made = std::make_shared<const List>(
      List{moves_of(planes), list_planes(planes, index_.data(), order_)});
  return lists_[size] = made;
}

Tensor product(const Machine& machine, const Window& w, const Tensor& x,
               const Operands& operands) {
  if (x.rank() != 4 || x.shape[3] != w.inputs()) mismatch();
  if (operands.residual != nullptr && operands.residual->rank() != 4) mismatch();
  const int64_t n = x.shape[0], height = x.shape[1], width = x.shape[2];
  const bool is_dense = height * width * w.rows() * w.columns() == 1 &&
                        w.top + w.bottom + w.left + w.right == 0;
  if (is_dense && n > 1) {  // a batch of single pixels is a row of pixels
    const Tensor residual =
        operands.residual == nullptr ? Tensor() : transpose(*operands.residual, as_row());
    Operands of_row = operands;
    if (operands.residual != nullptr) of_row.residual = &residual;
    return transpose(product(machine, w, transpose(x, as_row()), of_row), as_batch());
  }
  const int64_t room_h = height + w.top + w.bottom - w.rows();
  const int64_t room_w = width + w.left + w.right - w.columns();
  if (room_h < 0 || room_w < 0) mismatch();
  const int64_t p = room_h / w.sh + 1, q = room_w / w.sw + 1;
  const Shape shape{1, w.inputs(), height, width, w.co, p, q, w.rows(), w.columns(),
                    w.sh, w.sw, w.top, w.left};
  const Planes planes = planes_of(shape);
  if (packed_floats(planes) > kMaxPacked)
    bad_file("its graph needs more memory than this version allows");
  const Lengths out_shape = {n, shape.p, shape.q, w.co};
  const Tensor images = ordered(x, by_channels(), machine.pool);
  Tensor residual;
  if (operands.residual != nullptr) {
    if (operands.residual->shape != out_shape) mismatch();
    residual = ordered(*operands.residual, by_channels(), machine.pool);
  }
  Tensor out = make(out_shape, by_channels());
  const SparseKernel& kernel = *operands.kernel;
  const PlaneEpilogue epilogue{operands.scale, operands.shift, residual.data,
                               operands.rectified};
  const auto list = kernel.list(planes);
  const PlaneWeights weights{kernel.order().begin.data(), list->offset.data(),
                             operands.values};
  mean_of_planes(machine, planes, list->moves, weights, n, images.data, epilogue,
                 out.data);
  return out;
}

}  // namespace ssvi
