// Threefry-2x32 (Salmon et al. 2011) and the transform of Box and Muller, as in
// ssvi_jax/ops/noise.py but with a counter of 64 bits. Compiled without contraction and
// without the library's functions: the same seed gives the same bits on any machine.

#include "draws.h"

#include <cmath>
#include <cstring>
#include <initializer_list>

#if defined(__clang__)
#pragma clang fp contract(off)
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

namespace ssvi {
namespace {

constexpr int kRotations[8] = {13, 15, 26, 6, 17, 29, 16, 24};

struct Words {
  uint32_t first, second;
};

Words threefry(const DrawKey& key, uint32_t low, uint32_t high, int rounds) {
  const uint32_t keys[3] = {key.words[0], key.words[1],
                            key.words[0] ^ key.words[1] ^ 0x1BD11BDAu};
  uint32_t x = low + keys[0], y = high + keys[1];
  for (int i = 0; i < rounds; ++i) {
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
float logarithm(float value) {
  int32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits -= 0x3F3504F3;  // of sqrt(1/2)
  const float power = static_cast<float>(bits >> 23);
  bits = (bits & 0x007FFFFF) + 0x3F3504F3;
  float mantissa;
  std::memcpy(&mantissa, &bits, sizeof mantissa);
  const float t = mantissa - 1.0f, z = t * t;
  float p = 7.0376836292e-2f;
  for (float c : {-1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f,
                  1.4249322787e-1f, -1.6668057665e-1f, 2.0000714765e-1f,
                  -2.4999993993e-1f, 3.3333331174e-1f})
    p = p * t + c;
  return power * 0.693147180559945f + (t + z * (p * t - 0.5f));
}

struct Pair {
  float cosine, sine;
};

Pair to_normals(Words words) {
  const float uniform =
      static_cast<float>(static_cast<int32_t>(words.first >> 1)) * 0x1p-31f + 0x1p-32f;
  const float radius = std::sqrt(-2.0f * logarithm(uniform));
  // The angle: the nearest multiple of a right angle, and the rest.
  const uint32_t turned = words.second + 0x20000000u;
  const float t = static_cast<float>(static_cast<int32_t>(turned & 0x3FFFFFFFu) -
                                     0x20000000) *
                  1.46291807926715968e-9f;  // π / 2^31
  const float z = t * t;
  const float sine = t + t * z * (-1.6666654611e-1f +
                                  z * (8.3321608736e-3f + z * -1.9515295891e-4f));
  const float cosine =
      1.0f + z * (-0.5f + z * (4.166664568298827e-2f +
                               z * (-1.388731625493765e-3f +
                                    z * 2.443315711809948e-5f)));
  switch (turned >> 30) {
    case 0: return {radius * cosine, radius * sine};
    case 1: return {-radius * sine, radius * cosine};
    case 2: return {-radius * cosine, -radius * sine};
    default: return {radius * sine, -radius * cosine};
  }
}

}  // namespace

DrawKey draw_key(uint64_t seed, uint32_t draw, uint32_t layer) {
  const DrawKey whole{{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)}};
  const Words words = threefry(whole, draw, layer, 20);
  return {{words.first, words.second}};
}

void normals(const DrawKey& key, int64_t first, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i += 2) {
    const auto pair = static_cast<uint64_t>(first + i) / 2;
    const Pair both = to_normals(threefry(key, static_cast<uint32_t>(pair),
                                          static_cast<uint32_t>(pair >> 32), 13));
    out[i] = both.cosine;
    if (i + 1 < count) out[i + 1] = both.sine;
  }
}

}  // namespace ssvi
