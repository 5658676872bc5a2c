// Standard normal numbers that are a function of (seed, draw, layer, position) alone:
// by Threefry-2x32 (Salmon et al. 2011), as in ssvi_jax/ops/noise.py but with a counter
// of 64 bits, and the transform of Box and Muller. The same seed gives the same bits on
// any machine.
#pragma once

#include <cstdint>

#include "isa.h"

namespace ssvi {

struct DrawKey {
  uint32_t words[2];
};

// The key of one layer's weights in one draw.
DrawKey draw_key(uint64_t seed, uint32_t draw, uint32_t layer);

// Writes the numbers at positions [first, first + count); first is even.
using WriteNormals = void (*)(const DrawKey& key, int64_t first, int64_t count, float* out);
WriteNormals normals_of(const Isa& isa);

extern const WriteNormals normals_generic;
#if defined(__x86_64__)
extern const WriteNormals normals_avx2, normals_avx512;
#endif

}  // namespace ssvi
