#include "draws.h"

namespace ssvi {
namespace {

constexpr int kRotations[8] = {13, 15, 26, 6, 17, 29, 16, 24};
constexpr int kRounds = 20;

}  // namespace

DrawKey draw_key(uint64_t seed, uint32_t draw, uint32_t layer) {
  const uint32_t first = static_cast<uint32_t>(seed);
  const uint32_t second = static_cast<uint32_t>(seed >> 32);
  const uint32_t keys[3] = {first, second, first ^ second ^ 0x1BD11BDAu};
  uint32_t x = draw + keys[0], y = layer + keys[1];
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
  return {{x, y}};
}

WriteNormals normals_of(const Isa& isa) {
#if defined(__x86_64__)
  if (&isa == &kAvx512) return normals_avx512;
  if (&isa == &kAvx2) return normals_avx2;
#endif
  (void)isa;
  return normals_generic;
}

}  // namespace ssvi
