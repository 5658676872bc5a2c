// All kernels, for the instruction set of the including file. No include guard: each
// isa_*.cpp defines SSVI_LANES, SSVI_ISA and SSVI_TABLE, has included everything
// standard before it turned the instructions on, and includes this once.

namespace ssvi {
namespace SSVI_ISA {
namespace {

#include "simd.h"
#include "noise.h"
#include "pack.h"
#include "both.h"
#include "gather.h"
#include "weights.h"
#include "comoment.h"
#include "dense.h"
#include "plane_sums.h"

// Independent chains of multiply-adds and nothing else: the peak of one core. More chains
// than processors have multiply-adds under way, and fewer than registers.
double multiply_adds(int64_t rounds) {
  constexpr int kChains = 12;
  vf sum[kChains];
  for (int k = 0; k < kChains; ++k) sum[k] = splat(1.0f + static_cast<float>(k));
  vf factor = splat(0.999f), term = splat(0.001f);
  for (int64_t i = 0; i < rounds; ++i) {
#if defined(__GNUC__) && defined(__x86_64__)
    asm volatile("" : "+x"(factor));  // or the compiler would find a closed form
#endif
#pragma GCC unroll 16
    for (int k = 0; k < kChains; ++k) sum[k] = sum[k] * factor + term;
  }
  for (int k = 1; k < kChains; ++k) sum[0] += sum[k];
  return sum[0][0];
}

}  // namespace
}  // namespace SSVI_ISA

const Isa SSVI_TABLE = {SSVI_NAME,
                        SSVI_LANES,
                        SSVI_ISA::kMaxTile,
                        SSVI_ISA::kMaxBothTile,
                        SSVI_ISA::kTileIn,
                        SSVI_ISA::kTileOut,
                        SSVI_ISA::gather,
                        SSVI_ISA::weights,
                        SSVI_ISA::add_sums,
                        SSVI_ISA::dense_gradient,
                        SSVI_ISA::pack_planes,
                        SSVI_ISA::planes,
                        SSVI_ISA::multiply_adds};

}  // namespace ssvi
