// Draws in vectors of four.

#include <cstdint>

#include "draws.h"

#define SSVI_LANES 4
#define SSVI_DRAWS normals_generic
#include "draw_kernels.h"
