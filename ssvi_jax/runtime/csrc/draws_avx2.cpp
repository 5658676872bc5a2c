// Draws for AVX2.

#if defined(__x86_64__)

#include <immintrin.h>

#include <cstdint>

#include "draws.h"

// From here on only: see simd.h.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC target("avx2")
#endif

#define SSVI_LANES 8
#define SSVI_DRAWS normals_avx2
#include "draw_kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
