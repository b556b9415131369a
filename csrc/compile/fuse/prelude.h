#pragma once

// What every emitted kernel begins with: one part for each target, and one that is shared. f16 is the
// targets' affair; bf16 is made of bits in the shared part.
namespace moai::compile {

constexpr const char* kCppPrelude = R"(
#include <cmath>
#include <cstring>
#define DEVICE static inline
#define UNROLL
#define FOR_ROWS for (i64 row = 0; row < rows; ++row)
#define FOR_CHUNKS for (i64 chunk = 0; chunk < chunks; ++chunk)
#define FOR_PACKS for (i64 pack = 0; pack < packs; ++pack)
#define FOR_COLUMNS for (i64 column = packs * lanes; column < columns; ++column)
#define FOR_PACKS_OF_GRID FOR_PACKS
#define FOR_COLUMNS_OF_GRID FOR_COLUMNS
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
// A GPU faults where they are not aligned; so does this.
template <int bytes> DEVICE void copy_block(void* to, const void* from) {
  if ((i64)to % bytes != 0 || (i64)from % bytes != 0) __builtin_trap();
  std::memcpy(to, from, bytes);
}
)";

constexpr const char* kCudaPrelude = R"(
#define DEVICE static __device__ __forceinline__
#define UNROLL _Pragma("unroll")
#define FOR_ROWS for (i64 row = blockIdx.x; row < rows; row += gridDim.x)
#define FOR_CHUNKS for (i64 chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x)
#define FOR_PACKS for (i64 pack = threadIdx.x; pack < packs; pack += blockDim.x)
#define FOR_COLUMNS for (i64 column = packs * lanes + threadIdx.x; column < columns; column += blockDim.x)
#define THREAD_OF_GRID (blockIdx.x * (i64)blockDim.x + threadIdx.x)
#define THREADS_OF_GRID (gridDim.x * (i64)blockDim.x)
#define FOR_PACKS_OF_GRID for (i64 pack = THREAD_OF_GRID; pack < packs; pack += THREADS_OF_GRID)
#define FOR_COLUMNS_OF_GRID \
  for (i64 column = packs * lanes + THREAD_OF_GRID; column < columns; column += THREADS_OF_GRID)
#define ONCE_A_ROW if (threadIdx.x == 0)
typedef long long i64;
typedef unsigned short u16;
DEVICE float float_of_f16(u16 bits) { float x; asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits)); return x; }
DEVICE u16 f16_of_float(float x) { u16 bits; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x)); return bits; }
DEVICE unsigned bits_of_float(float x) { return __float_as_uint(x); }
DEVICE float float_of_bits(unsigned bits) { return __uint_as_float(bits); }
DEVICE double as_double(i64 bits) { return __longlong_as_double(bits); }
template <int bytes> DEVICE void copy_block(void* to, const void* from) {
  if constexpr (bytes == 16) {
    *(uint4*)to = *(const uint4*)from;
  } else if constexpr (bytes == 8) {
    *(uint2*)to = *(const uint2*)from;
  } else {
    static_assert(bytes == 4);
    *(unsigned*)to = *(const unsigned*)from;
  }
}
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

// A pack is what one thread moves at a time: `lanes` elements side by side, in blocks of 16 bytes at most.
template <int lanes, typename T> struct Pack {
  static constexpr int block = lanes * sizeof(T) < 16 ? lanes * sizeof(T) : 16;
  alignas(16) T at[lanes];
  DEVICE void copy(T* to, const T* from) {
    UNROLL for (int i = 0; i < lanes; i += block / sizeof(T)) copy_block<block>(to + i, from + i);
  }
};
// How a type lies in memory, and what it is computed as.
#define TYPE(name, Raw, Wide, decode, encode) \
  DEVICE Wide load_##name(i64 p, i64 at) { return decode(((const Raw*)p)[at]); } \
  DEVICE void store_##name(i64 p, i64 at, Wide x) { ((Raw*)p)[at] = encode(x); } \
  template <int lanes> DEVICE void load_pack_##name(i64 p, i64 at, i64 stride, Wide* x) { \
    const Raw* from = (const Raw*)p + at; \
    Pack<lanes, Raw> raw; \
    if (stride == 0) { \
      UNROLL for (int lane = 0; lane < lanes; ++lane) raw.at[lane] = *from; \
    } else { \
      Pack<lanes, Raw>::copy(raw.at, from); \
    } \
    UNROLL for (int lane = 0; lane < lanes; ++lane) x[lane] = decode(raw.at[lane]); \
  } \
  template <int lanes> DEVICE void store_pack_##name(i64 p, i64 at, const Wide* x) { \
    Pack<lanes, Raw> raw; \
    UNROLL for (int lane = 0; lane < lanes; ++lane) raw.at[lane] = encode(x[lane]); \
    Pack<lanes, Raw>::copy((Raw*)p + at, raw.at); \
  }
#define SAME(x) (x)
#define TO_INT(x) ((int)(x))
#define IS_NOT_0(x) ((x) != 0)
TYPE(f64, double, double, SAME, SAME)
TYPE(f32, float, float, SAME, SAME)
TYPE(f16, u16, float, float_of_f16, f16_of_float)
TYPE(bf16, u16, float, float_of_bf16, bf16_of_float)
TYPE(i64, i64, i64, SAME, SAME)
TYPE(i32, int, i64, SAME, TO_INT)
TYPE(bool, unsigned char, i64, IS_NOT_0, IS_NOT_0)

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
