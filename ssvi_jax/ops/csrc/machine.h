// What a pass runs on.
#pragma once

#include "isa.h"
#include "parallel.h"

namespace ssvi {

struct Machine {
  const Isa* isa;
  Pool pool;
};

// Best instruction set of this processor, or the one named; null if it has none such.
const Isa* find_isa(const char* name);

}  // namespace ssvi
