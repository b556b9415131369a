#pragma once

// What every emitted kernel begins with: one part for each target, and one that is shared. f16 is the
// targets' affair; bf16 is made of bits in the shared part.
namespace moai::compile {

constexpr const char* kCppPrelude = R"(
#include <cmath>
#include <cstring>
#define DEVICE static inline
#define FOR_ROWS for (i64 row = 0; row < rows; ++row)
#define FOR_COLUMNS for (i64 column = 0; column < columns; ++column)
#define FOR_ELEMENTS FOR_COLUMNS
#define ONCE_A_ROW
#define OVER_BLOCK(reduce, value) (value)
using std::cos; using std::erf; using std::exp; using std::log; using std::pow; using std::sin; using std::sqrt;
using std::tanh;
typedef long long i64;
typedef unsigned short u16;
DEVICE float float_of_f16(u16 bits) { _Float16 x; std::memcpy(&x, &bits, 2); return (float)x; }
DEVICE u16 f16_of_float(float x) { _Float16 y = (_Float16)x; u16 bits; std::memcpy(&bits, &y, 2); return bits; }
DEVICE unsigned bits_of_float(float x) { unsigned bits; std::memcpy(&bits, &x, 4); return bits; }
DEVICE float float_of_bits(unsigned bits) { float x; std::memcpy(&x, &bits, 4); return x; }
DEVICE double as_double(i64 bits) { double x; std::memcpy(&x, &bits, 8); return x; }
)";

constexpr const char* kCudaPrelude = R"(
#define DEVICE static __device__ __forceinline__
#define FOR_ROWS for (i64 row = blockIdx.x; row < rows; row += gridDim.x)
#define FOR_COLUMNS for (i64 column = threadIdx.x; column < columns; column += blockDim.x)
#define FOR_ELEMENTS \
  for (i64 column = blockIdx.x * (i64)blockDim.x + threadIdx.x; column < columns; \
       column += gridDim.x * (i64)blockDim.x)
#define ONCE_A_ROW if (threadIdx.x == 0)
typedef long long i64;
typedef unsigned short u16;
DEVICE float float_of_f16(u16 bits) { float x; asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits)); return x; }
DEVICE u16 f16_of_float(float x) { u16 bits; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x)); return bits; }
DEVICE unsigned bits_of_float(float x) { return __float_as_uint(x); }
DEVICE float float_of_bits(unsigned bits) { return __uint_as_float(bits); }
DEVICE double as_double(i64 bits) { return __longlong_as_double(bits); }
// Over all threads of the block, each of which gets the result. Always in the same order.
#define OVER_BLOCK(reduce, value) over_block(value, [](auto a, auto b) { return reduce(a, b); })
template <typename T, typename Reduce>
DEVICE T over_block(T value, Reduce reduce) {
  __shared__ T of_warp[32];
  for (int apart = 16; apart > 0; apart /= 2)
    value = reduce(value, __shfl_xor_sync(0xffffffffu, value, apart));
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
  __syncthreads();
  T all = of_warp[0];
  for (unsigned warp = 1; warp < blockDim.x / 32; ++warp) all = reduce(all, of_warp[warp]);
  __syncthreads();  // the next reduction writes there
  return all;
}
)";

constexpr const char* kSharedPrelude = R"(
DEVICE float float_of_bf16(u16 bits) { return float_of_bits((unsigned)bits << 16); }
DEVICE u16 bf16_of_float(float x) {
  const unsigned bits = bits_of_float(x);
  if (x != x) return 0x7fc0;
  return (u16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
DEVICE i64 as_integer(i64 bits) { return bits; }
template <typename T> DEVICE double to_f64(T x) { return (double)x; }
template <typename T> DEVICE float to_f32(T x) { return (float)x; }
template <typename T> DEVICE float to_f16(T x) { return float_of_f16(f16_of_float((float)x)); }
template <typename T> DEVICE float to_bf16(T x) { return float_of_bf16(bf16_of_float((float)x)); }
template <typename T> DEVICE i64 to_i64(T x) { return (i64)x; }
template <typename T> DEVICE i64 to_i32(T x) { return (i64)(int)x; }
template <typename T> DEVICE i64 to_bool(T x) { return x != 0; }
DEVICE double load_f64(i64 p, i64 at) { return ((const double*)p)[at]; }
DEVICE float load_f32(i64 p, i64 at) { return ((const float*)p)[at]; }
DEVICE float load_f16(i64 p, i64 at) { return float_of_f16(((const u16*)p)[at]); }
DEVICE float load_bf16(i64 p, i64 at) { return float_of_bf16(((const u16*)p)[at]); }
DEVICE i64 load_i64(i64 p, i64 at) { return ((const i64*)p)[at]; }
DEVICE i64 load_i32(i64 p, i64 at) { return ((const int*)p)[at]; }
DEVICE i64 load_bool(i64 p, i64 at) { return ((const unsigned char*)p)[at] != 0; }
DEVICE void store_f64(i64 p, i64 at, double x) { ((double*)p)[at] = x; }
DEVICE void store_f32(i64 p, i64 at, float x) { ((float*)p)[at] = x; }
DEVICE void store_f16(i64 p, i64 at, float x) { ((u16*)p)[at] = f16_of_float(x); }
DEVICE void store_bf16(i64 p, i64 at, float x) { ((u16*)p)[at] = bf16_of_float(x); }
DEVICE void store_i64(i64 p, i64 at, i64 x) { ((i64*)p)[at] = x; }
DEVICE void store_i32(i64 p, i64 at, i64 x) { ((int*)p)[at] = (int)x; }
DEVICE void store_bool(i64 p, i64 at, i64 x) { ((unsigned char*)p)[at] = x != 0; }
template <typename T> DEVICE T larger(T a, T b) { return a != a || a > b ? a : b; }
template <typename T> DEVICE T smaller(T a, T b) { return a != a || a < b ? a : b; }
DEVICE float sum_float(float a, float b) { return a + b; }
DEVICE double sum_double(double a, double b) { return a + b; }
DEVICE i64 sum_i64(i64 a, i64 b) { return a + b; }
DEVICE float max_float(float a, float b) { return larger(a, b); }
DEVICE double max_double(double a, double b) { return larger(a, b); }
DEVICE i64 max_i64(i64 a, i64 b) { return larger(a, b); }
DEVICE float min_float(float a, float b) { return smaller(a, b); }
DEVICE double min_double(double a, double b) { return smaller(a, b); }
DEVICE i64 min_i64(i64 a, i64 b) { return smaller(a, b); }
DEVICE float infinity() { return float_of_bits(0x7f800000u); }
DEVICE float first_sum_float() { return 0; }
DEVICE double first_sum_double() { return 0; }
DEVICE i64 first_sum_i64() { return 0; }
DEVICE float first_max_float() { return -infinity(); }
DEVICE double first_max_double() { return -infinity(); }
DEVICE i64 first_max_i64() { return (i64)1 << 63; }
DEVICE float first_min_float() { return infinity(); }
DEVICE double first_min_double() { return infinity(); }
DEVICE i64 first_min_i64() { return ~((i64)1 << 63); }
)";

}  // namespace moai::compile
