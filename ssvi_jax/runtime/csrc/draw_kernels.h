// Standard normal numbers by the transform of Box and Muller, in vectors. No include
// guard: each draws_*.cpp chooses instructions, SSVI_LANES and SSVI_DRAWS, and includes
// this once. The formulas are those of training's noise; no operation is contracted and
// no function is the library's, so that all of them make the same bits.

#if defined(__clang__)
#pragma clang fp contract(off)
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

namespace ssvi {
namespace {

#include "simd.h"
#include "noise.h"

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

// Both, each lane's numbers side by side.
SSVI_INLINE void store_pairs(float* out, Normals both) {
  store_any(out, SSVI_SHUFFLE(both.cosine, both.sine, SSVI_LOW_PAIRS));
  store_any(out + kLanes, SSVI_SHUFFLE(both.cosine, both.sine, SSVI_HIGH_PAIRS));
}

void normals(const DrawKey& key, int64_t first, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i += 2 * kLanes) {
    const auto pair = static_cast<uint64_t>(first + i) / 2;
    const vu low = iota() + static_cast<uint32_t>(pair);
    const vu carry = bit_cast<vu>(low < static_cast<uint32_t>(pair));  // -1
    const vu high = static_cast<uint32_t>(pair >> 32) - carry;
    const Words words = threefry(key.words, low, high);
    // Not the estimate of a root, whose bits are those of a processor.
    const Normals both = at_angle(words, square_root(squared_radius(words)));
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

const WriteNormals SSVI_DRAWS = normals;

}  // namespace ssvi
