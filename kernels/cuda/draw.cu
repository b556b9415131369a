#include "kernels/cuda/draw.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "kernels/aten/philox.h"

namespace moai::cuda {

namespace {

using aten::Philox;

__device__ void store(float* out, double x) { *out = static_cast<float>(x); }
__device__ void store(double* out, double x) { *out = x; }
// Rounded to float first, as the CPU's samplers do.
__device__ void store(__half* out, double x) { *out = __float2half_rn(static_cast<float>(x)); }
__device__ void store(__nv_bfloat16* out, double x) { *out = __float2bfloat16_rn(static_cast<float>(x)); }
__device__ void store(bool* out, double x) { *out = x != 0; }
__device__ double load(const float* x) { return *x; }
__device__ double load(const double* x) { return *x; }
__device__ double load(const __half* x) { return __half2float(*x); }
__device__ double load(const __nv_bfloat16* x) { return __bfloat162float(*x); }
__device__ double load(const bool* x) { return *x; }

struct Uniform {
  double from, to;
  template <typename T>
  __device__ void operator()(Philox& draws, int64_t n, T* out) const {
    store(out, draws.uniform(n) * (to - from) + from);
    // Rounding to a narrow type may reach `to`, which is excluded.
    if (load(out) >= to && to > from) store(out, from);
  }
};

struct Normal {
  double mean, deviation;
  template <typename T>
  __device__ void operator()(Philox& draws, int64_t n, T* out) const {
    store(out, draws.normal(n) * deviation + mean);
  }
};

struct Bernoulli {
  double probability;
  template <typename T>
  __device__ void operator()(Philox& draws, int64_t n, T* out) const {
    store(out, draws.uniform(n) < probability ? 1 : 0);
  }
};

// A thread draws pairs: the two elements of a Philox block.
template <typename T, typename Value>
__global__ void fill(T* out, Numbers numbers, Value value) {
  Philox draws(numbers.seed, numbers.counter);
  const int64_t end = numbers.start + numbers.count;
  const int64_t first_pair = numbers.start / 2;
  const int64_t pairs = (end + 1) / 2 - first_pair;
  for (int64_t p = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; p < pairs;
       p += int64_t{gridDim.x} * blockDim.x) {
    for (int64_t n = 2 * (first_pair + p); n < 2 * (first_pair + p) + 2; ++n) {
      if (n >= numbers.start && n < end) value(draws, n, out + (n - numbers.start));
    }
  }
}

template <typename Value>
void launch(void* out, Element element, const Numbers& numbers, const Value& value, cudaStream_t stream) {
  if (numbers.count == 0) return;
  constexpr int kThreads = 256;
  constexpr int64_t kMostBlocks = 4096;  // then each thread draws more
  const int64_t pairs = numbers.count / 2 + 1;
  const auto blocks = static_cast<unsigned>(std::min(kMostBlocks, (pairs + kThreads - 1) / kThreads));
  const auto as = [&](auto* typed) { fill<<<blocks, kThreads, 0, stream>>>(typed, numbers, value); };
  switch (element) {
    case Element::kF32: return as(static_cast<float*>(out));
    case Element::kF64: return as(static_cast<double*>(out));
    case Element::kF16: return as(static_cast<__half*>(out));
    case Element::kBF16: return as(static_cast<__nv_bfloat16*>(out));
    case Element::kBool: return as(static_cast<bool*>(out));
  }
}

}  // namespace

void draw_uniform(void* out, Element element, const Numbers& numbers, double from, double to,
                  cudaStream_t stream) {
  launch(out, element, numbers, Uniform{from, to}, stream);
}

void draw_normal(void* out, Element element, const Numbers& numbers, double mean, double deviation,
                 cudaStream_t stream) {
  launch(out, element, numbers, Normal{mean, deviation}, stream);
}

void draw_bernoulli(void* out, Element element, const Numbers& numbers, double probability,
                    cudaStream_t stream) {
  launch(out, element, numbers, Bernoulli{probability}, stream);
}

}  // namespace moai::cuda
