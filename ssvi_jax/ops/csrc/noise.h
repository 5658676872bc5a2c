// Standard normal numbers by position: the same as ssvi_jax/ops/noise.py.
#pragma once

constexpr int kRotations[8] = {13, 15, 26, 6, 17, 29, 16, 24};

struct Words {
  vu first, second;
};

// Threefry-2x32 with 13 rounds of a pair.
SSVI_INLINE Words threefry(const uint32_t* key, vu first, vu second) {
  const uint32_t keys[3] = {key[0], key[1], key[0] ^ key[1] ^ 0x1BD11BDAu};
  vu x = first + keys[0], y = second + keys[1];
#pragma GCC unroll 13
  for (int i = 0; i < 13; ++i) {
    const int bits = kRotations[i % 8];
    x += y;
    y = x ^ ((y << bits) | (y >> (32 - bits)));
    if (i % 4 == 3) {
      const int block = i / 4 + 1;
      x += keys[block % 3];
      y += keys[(block + 1) % 3] + static_cast<uint32_t>(block);
    }
  }
  return {x, y};
}

SSVI_INLINE vu iota() {
  vu value;
  for (int i = 0; i < kLanes; ++i) value[i] = static_cast<uint32_t>(i);
  return value;
}

// Natural logarithm for normal positive arguments; the error is below 1.2e-7 absolute
// where the logarithm is small, else relative. Coefficients of Cephes logf (Moshier).
SSVI_INLINE vf logarithm(vf value) {
  const vi bits = bit_cast<vi>(value) - 0x3F3504F3;  // of sqrt(1/2)
  const vf power = __builtin_convertvector(bits >> 23, vf);
  const vf t = bit_cast<vf>((bits & 0x007FFFFF) + 0x3F3504F3) - 1.0f;
  const vf z = t * t;
  // Sums of short sums: the chain of dependent operations is what takes the time.
  const vf p0 = t * -2.4999993993e-1f + 3.3333331174e-1f;
  const vf p1 = t * -1.6668057665e-1f + 2.0000714765e-1f;
  const vf p2 = t * -1.2420140846e-1f + 1.4249322787e-1f;
  const vf p3 = t * -1.1514610310e-1f + 1.1676998740e-1f;
  const vf z2 = z * z;
  const vf s = (p0 + z * p1) + z2 * ((p2 + z * p3) + z2 * 7.0376836292e-2f);
  return power * 0.693147180559945f + (t + z * (s * t - 0.5f));
}

// Two independent normal numbers of two uniform words (Box and Muller 1958).
struct Normals {
  vf cosine, sine;
};
// Their radius, squared.
SSVI_INLINE vf squared_radius(Words words) {
  const vf uniform =
      __builtin_convertvector(bit_cast<vi>(words.first >> 1), vf) * 0x1p-31f + 0x1p-32f;
  return -2.0f * logarithm(uniform);
}
SSVI_INLINE Normals at_angle(Words words, vf radius) {
  // The angle: the nearest multiple of a right angle, and the rest.
  const vu turned = words.second + 0x20000000u;
  const vf t = __builtin_convertvector(
                   bit_cast<vi>(turned & 0x3FFFFFFFu) - 0x20000000, vf) *
               1.46291807926715968e-9f;  // π / 2^31
  // Coefficients of Cephes sinf and cosf (Moshier).
  const vf z = t * t;
  const vf sine = t + t * z * (-1.6666654611e-1f +
                               z * (8.3321608736e-3f + z * -1.9515295891e-4f));
  const vf cosine =
      1.0f + z * (-0.5f + z * (4.166664568298827e-2f +
                               z * (-1.388731625493765e-3f +
                                    z * 2.443315711809948e-5f)));
  const vi odd = bit_cast<vi>(turned << 1) >> 31;
  const vu sign = splat(0x80000000u);
  const vf x = select(odd, sine, cosine), y = select(odd, cosine, sine);
  return {bit_cast<vf>(bit_cast<vu>(radius * x) ^ ((turned + 0x40000000u) & sign)),
          bit_cast<vf>(bit_cast<vu>(radius * y) ^ (turned & sign))};
}
SSVI_INLINE Normals to_normals(Words words) {
  return at_angle(words, roots(squared_radius(words)).root);
}

// The numbers at positions p, p + 1, …
SSVI_INLINE vf normal(const uint32_t* key, uint32_t position) {
  const vu p = position + iota();
  const Normals both = to_normals(threefry(key, ((p >> 5) << 4) | (p & 15), vu{}));
  return select(bit_cast<vi>(p << 27) >> 31, both.sine, both.cosine);  // bit 4
}

// The 32 numbers at positions p to p + 31, p a multiple of 32: at half the cost.
SSVI_INLINE void normal_pair(const uint32_t* key, uint32_t position, vf* out) {
  constexpr int half = 16 / kLanes;
#pragma GCC unroll 4
  for (int i = 0; i < half; ++i) {
    const vu counter = iota() + (position / 2 + static_cast<uint32_t>(i * kLanes));
    const Normals both = to_normals(threefry(key, counter, vu{}));
    out[i] = both.cosine;
    out[i + half] = both.sine;
  }
}
