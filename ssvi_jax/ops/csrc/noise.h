// Standard normal numbers by position: the same as ssvi_jax/ops/noise.py.
#pragma once

constexpr int kRotations[8] = {13, 15, 26, 6, 17, 29, 16, 24};

struct Words {
  vu first, second;
};

// Threefry-2x32 with 13 rounds of the pair (counter, 0).
SSVI_INLINE Words threefry(const uint32_t* key, vu counter) {
  const uint32_t keys[3] = {key[0], key[1], key[0] ^ key[1] ^ 0x1BD11BDAu};
  vu x = counter + keys[0], y = splat(keys[1]);
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

SSVI_INLINE vf to_normal(vu word) {
  const vf tail =
      __builtin_convertvector(bit_cast<vi>(word >> 1), vf) * 0x1p-32f + 0x1p-33f;
  const vf w = -logarithm(4.0f * tail * (1.0f - tail));
  const vf a = w - 2.5f;
  const vf b2 = a * a;
  const vf q0 = a * 3.4880325198173523e-01f + 2.1233131885528564f;
  const vf q1 = a * -1.773759606294334e-03f - 5.905766971409321e-03f;
  const vf q2 = a * -5.978737135592382e-06f + 3.072049585171044e-04f;
  const vf q3 = a * 4.6426282551692566e-07f - 4.4888174670632e-06f;
  vf size = (q0 + b2 * q1) + b2 * b2 * (q2 + b2 * q3);
  if (__builtin_expect(any_above(w, splat(5.0f)), 0)) {
    // One number in 300 is beyond 2.9.
    const vf floor = splat(5.0f);
    const vi beyond = w >= floor;
    const vf b = square_root(select(beyond, w, floor)) - 3.0f;
    vf far = splat(-2.5350271607749164e-04f);
    far = far * b + 1.6715876990929246e-03f;
    far = far * b - 4.7515141777694225e-03f;
    far = far * b + 8.158339187502861e-03f;
    far = far * b - 1.0927814990282059e-02f;
    far = far * b + 1.3349693268537521e-02f;
    far = far * b + 1.41659414768219f;
    far = far * b + 4.006434440612793f;
    size = select(beyond, far, size);
  }
  size *= 1.0f - 2.0f * tail;
  return bit_cast<vf>(bit_cast<vu>(size) ^ (word << 31));
}

// The numbers at positions p, p + 1, …
SSVI_INLINE vf normal(const uint32_t* key, uint32_t position) {
  const vu p = position + iota();
  const Words words = threefry(key, ((p >> 5) << 4) | (p & 15));
  const vi second = bit_cast<vi>(p << 27) >> 31;  // bit 4
  return to_normal(bit_cast<vu>((second & bit_cast<vi>(words.second)) |
                                (~second & bit_cast<vi>(words.first))));
}

// The 32 numbers at positions p to p + 31, p a multiple of 32: half the cipher calls.
SSVI_INLINE void normal_pair(const uint32_t* key, uint32_t position, vf* out) {
  constexpr int half = 16 / kLanes;
#pragma GCC unroll 4
  for (int i = 0; i < half; ++i) {
    const Words words =
        threefry(key, iota() + (position / 2 + static_cast<uint32_t>(i * kLanes)));
    out[i] = to_normal(words.first);
    out[i + half] = to_normal(words.second);
  }
}
