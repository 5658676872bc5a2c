// The kernels in vectors of four, which every compiler can make something of.

#include <cstdint>

#include "isa.h"

#define SSVI_LANES 4
#define SSVI_ISA generic
#define SSVI_NAME "generic"
#define SSVI_TABLE kGeneric
#include "conv_kernels.h"
