// Memory that a thread keeps between calls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace ssvi {

// A buffer that only grows, aligned to huge pages: the kernels jump about in a megabyte
// of packed input, more 4 KiB pages than the first-level TLB has entries.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(data_); }

  // At least `size` elements, not initialized; what an earlier call returned is gone.
  template <typename T>
  T* get(size_t size) {
    const size_t bytes = size * sizeof(T);
    if (bytes > capacity_) {
      std::free(data_);
      capacity_ = (bytes + kPage - 1) / kPage * kPage;
      data_ = std::aligned_alloc(kPage, capacity_);
      if (data_ == nullptr) {
        capacity_ = 0;
        throw std::bad_alloc();
      }
#if defined(MADV_HUGEPAGE)
      madvise(data_, capacity_, MADV_HUGEPAGE);
#endif
    }
    return static_cast<T*>(data_);
  }

 private:
  static constexpr size_t kPage = size_t{1} << 21;
  void* data_ = nullptr;
  size_t capacity_ = 0;
};

}  // namespace ssvi
