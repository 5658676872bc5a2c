// The kernels for AVX2 with FMA.

#if defined(__x86_64__)

#include <immintrin.h>

#include <cstdint>

#include "isa.h"

// From here on only: see simd.h.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

#define SSVI_LANES 8
#define SSVI_ISA avx2
#define SSVI_NAME "avx2"
#define SSVI_TABLE kAvx2
#include "conv_kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
