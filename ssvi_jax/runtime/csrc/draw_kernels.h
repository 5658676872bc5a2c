// Standard normal numbers by the transform of Box and Muller, in vectors. No include
// guard: each draws_*.cpp chooses instructions, SSVI_LANES and SSVI_DRAWS, and includes
// this once. No operation is contracted and no function is the library's, so that all
// of them make the same bits.

#if defined(__clang__)
#pragma clang fp contract(off)
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

namespace ssvi {
namespace {

#include "simd.h"

#if SSVI_LANES == 16
#define SSVI_LOW_PAIRS 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define SSVI_HIGH_PAIRS 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif SSVI_LANES == 8
#define SSVI_LOW_PAIRS 0, 8, 1, 9, 2, 10, 3, 11
#define SSVI_HIGH_PAIRS 4, 12, 5, 13, 6, 14, 7, 15
#else
#define SSVI_LOW_PAIRS 0, 4, 1, 5
#define SSVI_HIGH_PAIRS 2, 6, 3, 7
#endif

constexpr int kRotations[8] = {13, 15, 26, 6, 17, 29, 16, 24};
constexpr int kRounds = 13;

struct Words {
  vu first, second;
};

// Threefry-2x32 of fewer rounds than the keys take.
SSVI_INLINE Words threefry(const DrawKey& key, vu low, vu high) {
  const uint32_t keys[3] = {key.words[0], key.words[1],
                            key.words[0] ^ key.words[1] ^ 0x1BD11BDAu};
  vu x = low + keys[0], y = high + keys[1];
#pragma GCC unroll 16
  for (int i = 0; i < kRounds; ++i) {
    const int bits = kRotations[i % 8];
    x += y;
    y = x ^ (y << bits | y >> (32 - bits));
    if (i % 4 == 3) {
      const uint32_t block = static_cast<uint32_t>(i / 4 + 1);
      x += keys[block % 3];
      y += keys[(block + 1) % 3] + block;
    }
  }
  return {x, y};
}

// Natural logarithm of normal positive numbers: coefficients of Cephes logf (Moshier).
SSVI_INLINE vf logarithm(vf value) {
  vi bits = bit_cast<vi>(value) - 0x3F3504F3;  // of sqrt(1/2)
  const vf power = __builtin_convertvector(bits >> 23, vf);
  bits = (bits & 0x007FFFFF) + 0x3F3504F3;
  const vf t = bit_cast<vf>(bits) - 1.0f, z = t * t;
  vf p = splat(7.0376836292e-2f);
  p = p * t + -1.1514610310e-1f;
  p = p * t + 1.1676998740e-1f;
  p = p * t + -1.2420140846e-1f;
  p = p * t + 1.4249322787e-1f;
  p = p * t + -1.6668057665e-1f;
  p = p * t + 2.0000714765e-1f;
  p = p * t + -2.4999993993e-1f;
  p = p * t + 3.3333331174e-1f;
  return power * 0.693147180559945f + (t + z * (p * t - 0.5f));
}

// Two numbers of each lane.
struct Two {
  vf cosine, sine;
};

SSVI_INLINE Two to_normals(Words words) {
  const vf uniform =
      __builtin_convertvector(bit_cast<vi>(words.first >> 1), vf) * 0x1p-31f + 0x1p-32f;
  const vf radius = square_root(-2.0f * logarithm(uniform));
  // The angle: the nearest multiple of a right angle, and the rest.
  const vu turned = words.second + 0x20000000u;
  const vf t =
      __builtin_convertvector(bit_cast<vi>(turned & 0x3FFFFFFFu) - 0x20000000, vf) *
      1.46291807926715968e-9f;  // π / 2^31
  const vf z = t * t;
  const vf sine =
      t + t * z * (-1.6666654611e-1f + z * (8.3321608736e-3f + z * -1.9515295891e-4f));
  const vf cosine =
      1.0f +
      z * (-0.5f + z * (4.166664568298827e-2f +
                        z * (-1.388731625493765e-3f + z * 2.443315711809948e-5f)));
  const vu quarter = turned >> 30;
  const vi odd = (quarter & 1) != 0;
  // (c, s), (-s, c), (-c, -s) or (s, -c)
  const vf first = select(odd, radius * sine, radius * cosine);
  const vf second = select(odd, radius * cosine, radius * sine);
  return {bit_cast<vf>(bit_cast<vu>(first) ^ ((quarter + 1) & 2) << 30),
          bit_cast<vf>(bit_cast<vu>(second) ^ (quarter & 2) << 30)};
}

// Both, each lane's numbers side by side.
SSVI_INLINE void store_pairs(float* out, Two both) {
  store_any(out, SSVI_SHUFFLE(both.cosine, both.sine, SSVI_LOW_PAIRS));
  store_any(out + kLanes, SSVI_SHUFFLE(both.cosine, both.sine, SSVI_HIGH_PAIRS));
}

void normals(const DrawKey& key, int64_t first, int64_t count, float* out) {
  vu lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = static_cast<uint32_t>(i);
  for (int64_t i = 0; i < count; i += 2 * kLanes) {
    const auto pair = static_cast<uint64_t>(first + i) / 2;
    const vu low = lane + static_cast<uint32_t>(pair);
    const vu carry = bit_cast<vu>(low < static_cast<uint32_t>(pair));  // -1
    const Two both =
        to_normals(threefry(key, low, static_cast<uint32_t>(pair >> 32) - carry));
    if (count - i >= 2 * kLanes) {
      store_pairs(out + i, both);
    } else {
      float rest[2 * kLanes];
      store_pairs(rest, both);
      for (int64_t k = i; k < count; ++k) out[k] = rest[k - i];
    }
  }
}

}  // namespace

const Normals SSVI_DRAWS = normals;

}  // namespace ssvi
