#include "machine.h"

#include <cstring>

namespace ssvi {

const Isa* find_isa(const char* name) {
  const bool any = name[0] == '\0';
#if defined(__x86_64__)
  const bool avx512 =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  if (avx512 && (any || std::strcmp(name, "avx512") == 0)) return &kAvx512;
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && (any || std::strcmp(name, "avx2") == 0)) return &kAvx2;
#endif
  if (any || std::strcmp(name, "generic") == 0) return &kGeneric;
  return nullptr;
}

}  // namespace ssvi
