#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace moai::cuda {

enum class Element : uint8_t { kF32, kF64, kF16, kBF16, kBool };

// Launch kernels that write `count` random numbers, the first of which is number `start` of the whole: the
// same ones as the CPU's samplers draw, to the rounding of logarithms and the like. Contiguous memory.
struct Numbers {
  uint64_t seed;
  uint64_t counter;
  int64_t start;
  int64_t count;
};

// In [from, to).
void draw_uniform(void* out, Element element, const Numbers& numbers, double from, double to,
                  cudaStream_t stream);
void draw_normal(void* out, Element element, const Numbers& numbers, double mean, double deviation,
                 cudaStream_t stream);
// 1 with this probability, else 0.
void draw_bernoulli(void* out, Element element, const Numbers& numbers, double probability,
                    cudaStream_t stream);

}  // namespace moai::cuda
