// The passes as a whole: lists, tasks, threads.
#pragma once

#include <cstdint>

#include "machine.h"
#include "plan.h"

namespace ssvi {

// y = conv(x, M) + sqrt(conv(x², V)) · ε and slope = ε / (2 sqrt(conv(x², V))), and of
// each channel Σy and Σ(y − mean y)². The key has two seeds, the images of the batch that
// these are a part of, and the first one.
void sample(const Machine& machine, const Shape& shape, const Kernel& kernel,
            const float* x, const uint32_t* key, float* y, float* slope, float* sum,
            float* squares);

// What is done to an output while it is at hand.
struct Epilogue {
  const float* bias = nullptr;      // of each channel, or null
  const float* residual = nullptr;  // of the output's shape, or null
  bool relu = false;
};

// Numbers in the table that a list for `mean` has besides its entries.
int64_t mean_table(const Shape& shape);

// The list of the weights that `mean` visits: kernel.size entries and the table.
void list_mean(const Machine& machine, const Shape& shape, const Kernel& kernel,
               Entry* entries, int32_t* table);

class BadList {};

// y = conv(x, M) + bias + residual, negative values replaced by 0 with `relu`. Throws
// BadList on the list of another shape.
void mean(const Machine& machine, const Shape& shape, const Entry* entries,
          const int32_t* table, int64_t size, const float* x, const Epilogue& epilogue,
          float* y);

class BadNorm {};

// dx = convᵀ(g, M) + 2 x convᵀ(g · slope, V), or without slope its first term; with a
// batch norm g is first taken through that.
void input_gradient(const Machine& machine, const Shape& shape, const Kernel& kernel,
                    const float* g, const float* slope, const NormGradient& norm,
                    const float* x, float* dx);

// dmean = Σ x g and dvariance = Σ x² g slope at the index; without slope only dmean.
void weight_gradient(const Machine& machine, const Shape& shape, const int32_t* index,
                     int64_t size, const float* x, const float* g, const float* slope,
                     const NormGradient& norm, float* dmean, float* dvariance);

// Both gradients at once: g and slope are read once. Without slope dvariance is not
// written.
void gradients(const Machine& machine, const Shape& shape, const Kernel& kernel,
               const float* g, const float* slope, const NormGradient& norm,
               const float* x, float* dx, float* dmean, float* dvariance);

// The gradient of the mean of every weight, [kh][kw][ci][co].
void dense_gradient(const Machine& machine, const Shape& shape, const float* x,
                    const float* g, float* sums);

// Of each channel: Σa and Σa(b − c), where a counts if b · factor + shift > 0. Without a
// center c is the mean of b, without a factor all of a counts.
void comoment(const Machine& machine, const Moments& moments, int64_t pixels, float* sum,
              float* product);

}  // namespace ssvi
