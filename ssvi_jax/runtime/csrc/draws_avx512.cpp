// Draws for AVX-512.

#if defined(__x86_64__)

#include <immintrin.h>

#include <cstdint>

#include "draws.h"

// From here on only: see simd.h.
#if defined(__clang__)
#pragma clang attribute push(                                           \
    __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2"))), \
    apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2")
#endif

#define SSVI_LANES 16
#define SSVI_DRAWS normals_avx512
#include "draw_kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
