// The kernels for AVX-512.

#if defined(__x86_64__)

#include <immintrin.h>

#include <cstdint>

#include "isa.h"

// From here on only: see simd.h.
#if defined(__clang__)
#pragma clang attribute push(\
    __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#endif

#define SSVI_LANES 16
#define SSVI_ISA avx512
#define SSVI_NAME "avx512"
#define SSVI_TABLE kAvx512
#include "conv_kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
