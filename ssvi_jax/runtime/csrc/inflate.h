// Deflate (RFC 1951), for input that may be hostile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace ssvi {

// Exactly `size` bytes, or an Error; found out without expanding beyond that.
std::vector<uint8_t> inflate(const uint8_t* coded, size_t coded_size, uint64_t size);

}  // namespace ssvi
