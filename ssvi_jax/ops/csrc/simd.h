// Vectors of the instruction set that the including file chose.
//
// Every function here and in the headers built on it is static, and nothing of the
// standard library is instantiated: what is compiled for AVX-512 must not be the copy
// that the linker keeps for everyone.
#pragma once

#if SSVI_LANES == 16
constexpr int kMaxTile = 12;  // two sums a position in 32 registers
#elif SSVI_LANES == 8
constexpr int kMaxTile = 6;  // … in 16
#else
constexpr int kMaxTile = 4;
#endif
constexpr int kLanes = SSVI_LANES;

typedef float vf __attribute__((vector_size(4 * SSVI_LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * SSVI_LANES)));
typedef int32_t vi __attribute__((vector_size(4 * SSVI_LANES)));

#define SSVI_INLINE static inline __attribute__((always_inline))

SSVI_INLINE vf splat(float value) { return value - vf{}; }
SSVI_INLINE vu splat(uint32_t value) { return value - vu{}; }

SSVI_INLINE vf load(const float* p) {  // of packed memory, which is aligned
  return *reinterpret_cast<const vf*>(p);
}
SSVI_INLINE void store(float* p, vf value) { *reinterpret_cast<vf*>(p) = value; }

// Loads once and keeps the value: the compiler likes to load again instead, and loads
// from the L2 cache are what the kernels wait for.
SSVI_INLINE vf load_once(const float* p) {
  vf value = load(p);
#if SSVI_LANES == 16
  asm("" : "+v"(value));
#elif defined(__x86_64__)
  asm("" : "+x"(value));
#endif
  return value;
}

SSVI_INLINE void prefetch(const float* p) { __builtin_prefetch(p, 0, 3); }

SSVI_INLINE vf load_any(const float* p) {
  vf value;
  __builtin_memcpy(&value, p, sizeof value);
  return value;
}
SSVI_INLINE void store_any(float* p, vf value) {
  __builtin_memcpy(p, &value, sizeof value);
}

// The first `lanes` elements at p and zeros; the rest of the memory is not touched.
SSVI_INLINE vf load_some(const float* p, int lanes) {
  if (lanes >= kLanes) return load_any(p);
  alignas(64) float whole[kLanes] = {};
  for (int i = 0; i < lanes; ++i) whole[i] = p[i];
  return load(whole);
}
SSVI_INLINE void store_some(float* p, vf value, int lanes) {
  if (lanes >= kLanes) return store_any(p, value);
  alignas(64) float whole[kLanes];
  store(whole, value);
  for (int i = 0; i < lanes; ++i) p[i] = whole[i];
}

// Lanes whose bit is set of the vector at p, and zeros; the rest of the memory is not
// touched.
SSVI_INLINE vf load_lanes(const float* p, uint32_t lanes) {
#if SSVI_LANES == 16
  return (vf)_mm512_maskz_loadu_ps(static_cast<__mmask16>(lanes), p);
#elif SSVI_LANES == 8
  const vi bit = {1, 2, 4, 8, 16, 32, 64, 128};
  const vi mask = (bit & static_cast<int32_t>(lanes)) == bit;
  return (vf)_mm256_maskload_ps(p, (__m256i)mask);
#else
  alignas(64) float whole[kLanes] = {};
  for (int i = 0; i < kLanes; ++i)
    if (lanes >> i & 1) whole[i] = p[i];
  return load(whole);
#endif
}

// As store_some; whole vectors are written around the cache if `streamed`, which spares
// reading what they overwrite. Needs stream_end before another thread reads.
SSVI_INLINE void put(float* p, vf value, int lanes, bool streamed) {
#if SSVI_LANES == 16
  if (streamed && lanes == kLanes) return _mm512_stream_ps(p, (__m512)value);
#elif SSVI_LANES == 8
  if (streamed && lanes == kLanes) return _mm256_stream_ps(p, (__m256)value);
#endif
  (void)streamed;
  store_some(p, value, lanes);
}
SSVI_INLINE void stream_end() {
#if SSVI_LANES > 4
  _mm_sfence();
#endif
}

template <typename To, typename From>
SSVI_INLINE To bit_cast(From value) {
  return reinterpret_cast<To>(value);
}

SSVI_INLINE vf select(vi mask, vf yes, vf no) {
  return bit_cast<vf>((mask & bit_cast<vi>(yes)) | (~mask & bit_cast<vi>(no)));
}

SSVI_INLINE vf square_root(vf value) {
#if SSVI_LANES == 16
  return (vf)_mm512_maskz_sqrt_ps(0xFFFF, (__m512)value);
#elif SSVI_LANES == 8
  return (vf)_mm256_sqrt_ps((__m256)value);
#else
  for (int i = 0; i < kLanes; ++i) value[i] = __builtin_sqrtf(value[i]);
  return value;
#endif
}

// The roots of a variance: its square root and the inverse of that, both 0 at 0.
struct Roots {
  vf root, inverse;
};
SSVI_INLINE Roots roots(vf value) {
#if SSVI_LANES == 16
  // A 14-bit estimate and one Newton step: a third of the time of root and division.
  const __mmask16 positive =
      _mm512_cmp_ps_mask((__m512)value, _mm512_setzero_ps(), _CMP_GT_OQ);
  vf r = (vf)_mm512_maskz_rsqrt14_ps(positive, (__m512)value);
  const vf root = value * r;
  r += r * 0.5f * (1.0f - root * r);
  return {value * r, r};
#else
  const vf root = square_root(value);
  const vi positive = root > 0.0f;
  const vf inverse = 1.0f / root;
  return {root, bit_cast<vf>(positive & bit_cast<vi>(inverse))};
#endif
}

// Even and odd elements of the pair (a, b).
#if SSVI_LANES == 16
#define SSVI_EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define SSVI_ODD 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#elif SSVI_LANES == 8
#define SSVI_EVEN 0, 2, 4, 6, 8, 10, 12, 14
#define SSVI_ODD 1, 3, 5, 7, 9, 11, 13, 15
#else
#define SSVI_EVEN 0, 2, 4, 6
#define SSVI_ODD 1, 3, 5, 7
#endif

#if defined(__clang__)
#define SSVI_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SSVI_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, vi{__VA_ARGS__})
#endif

SSVI_INLINE vf every_second(vf a, vf b) { return SSVI_SHUFFLE(a, b, SSVI_EVEN); }
SSVI_INLINE vf add_neighbours(vf a, vf b) {
  return SSVI_SHUFFLE(a, b, SSVI_EVEN) + SSVI_SHUFFLE(a, b, SSVI_ODD);
}

// Lane k of the result is the sum over the lanes of vectors[k].
template <int count>
SSVI_INLINE vf sum_each(const vf* vectors) {
  if constexpr (count == 1) {
    return vectors[0];
  } else {
    return add_neighbours(sum_each<count / 2>(vectors),
                          sum_each<count / 2>(vectors + count / 2));
  }
}
