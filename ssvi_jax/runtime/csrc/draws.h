// Standard normal numbers that are a function of (seed, draw, layer, position) alone.
#pragma once

#include <cstdint>

namespace ssvi {

struct DrawKey {
  uint32_t words[2];
};

// The key of one layer's weights in one draw.
DrawKey draw_key(uint64_t seed, uint32_t draw, uint32_t layer);

// The numbers at positions [first, first + count), count a multiple of 2 unless it ends
// the array; first is even.
void normals(const DrawKey& key, int64_t first, int64_t count, float* out);

}  // namespace ssvi
