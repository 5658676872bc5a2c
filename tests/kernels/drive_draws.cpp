// Draws of all instruction sets, whose bits must be the same.

#include "draws.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "machine.h"

namespace {

std::vector<float> drawn(const ssvi::Isa& isa, int64_t first, int64_t count) {
  std::vector<float> values(count);
  const ssvi::DrawKey key = ssvi::draw_key(uint64_t{1} << 40 | 5, 3, 2);
  ssvi::normals_of(isa)(key, first, count, values.data());
  return values;
}

}  // namespace

int main() {
  // The counter of 64 bits has a carry at the second of these.
  for (const int64_t first : {int64_t{0}, (int64_t{1} << 33) - 62, int64_t{1} << 40}) {
    for (const int64_t count : {1, 2, 31, 32, 33, 100001}) {
      const std::vector<float> expected = drawn(ssvi::kGeneric, first, count);
      for (const char* name : {"avx512", "avx2"}) {
        const ssvi::Isa* isa = ssvi::find_isa(name);
        if (isa == nullptr) continue;
        const std::vector<float> found = drawn(*isa, first, count);
        if (std::memcmp(found.data(), expected.data(), count * sizeof(float)) == 0)
          continue;
        std::printf("%s draws other bits, %lld from %lld on\n", name,
                    static_cast<long long>(count), static_cast<long long>(first));
        return 1;
      }
    }
  }
  double sums[4] = {};
  const std::vector<float> values = drawn(ssvi::kGeneric, 0, 1 << 20);
  for (const double x : values)
    for (int power = 0; power < 4; ++power) sums[power] += std::pow(x, power + 1);
  std::printf("%.4f %.4f %.4f %.4f\n", sums[0] / (1 << 20), sums[1] / (1 << 20),
              sums[2] / (1 << 20), sums[3] / (1 << 20));
}
