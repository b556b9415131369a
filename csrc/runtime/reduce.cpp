#include "runtime/reduce.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "ir/error.h"

namespace moai::runtime {

namespace {

using ir::DType;

// Elements that are combined at a time: 4 to 8 KiB of sums.
constexpr int64_t kBlock = 1024;

uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// How an element is stored, and what it is combined as.
template <typename Stored, typename Wide>
struct Plain {
  using Element = Stored;
  using Sum = Wide;
  static Sum load(Element value) { return static_cast<Sum>(value); }
  static Element store(Sum value) { return static_cast<Element>(value); }
};

struct BFloat16 {
  using Element = uint16_t;
  using Sum = float;
  static float load(uint16_t bits) { return float_of(uint32_t{bits} << 16); }
  // To nearest, ties to even.
  static uint16_t store(float value) {
    const uint32_t bits = bits_of(value);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return static_cast<uint16_t>(value != value ? (bits >> 16) | 0x40 : rounded);
  }
};

struct Float16 {
  using Element = uint16_t;
  using Sum = float;
  static float load(uint16_t bits) {
    const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
    const uint32_t magnitude = bits & 0x7fffu;
    // Below 2^-14 the bits count units of 2^-24; above, the exponent's bias differs by 112.
    const uint32_t tiny = bits_of(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f);
    const uint32_t normal = (magnitude << 13) + (112u << 23);
    const uint32_t special = 0x7f800000u | (magnitude << 13);
    return float_of(sign | (magnitude < 0x0400u ? tiny : magnitude < 0x7c00u ? normal : special));
  }
  // To nearest, ties to even.
  static uint16_t store(float value) {
    const uint32_t bits = bits_of(value);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    // A float in [0.5, 1) counts units of 2^-24: the addition rounds.
    const uint32_t tiny = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
    const uint32_t normal = (magnitude + 0xfff + ((magnitude >> 13) & 1) - (112u << 23)) >> 13;
    uint32_t half = magnitude < 0x38800000u ? tiny : normal;
    if (magnitude >= 0x477ff000u) half = 0x7c00u;  // rounds to 65536, which is infinite
    if (magnitude > 0x7f800000u) half = 0x7e00u;   // NaN
    return static_cast<uint16_t>(sign | half);
  }
};

struct Bool {
  using Element = uint8_t;
  using Sum = uint8_t;
  static uint8_t load(uint8_t value) { return value != 0; }
  static uint8_t store(uint8_t value) { return value; }
};

// Integers are combined as int64_t; the low bits of a wrapped sum or product are right for narrower ones.
inline int64_t add(int64_t a, int64_t b) {
  return static_cast<int64_t>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
}
inline int64_t multiply(int64_t a, int64_t b) {
  return static_cast<int64_t>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
}
inline uint8_t add(uint8_t a, uint8_t b) { return a | b; }
inline uint8_t multiply(uint8_t a, uint8_t b) { return a & b; }
template <typename T>
T add(T a, T b) {
  return a + b;
}
template <typename T>
T multiply(T a, T b) {
  return a * b;
}

template <Reduce kReduce, typename T>
T combine(T a, T b) {
  if constexpr (kReduce == Reduce::kProduct) return multiply(a, b);
  if constexpr (kReduce == Reduce::kMax) return a > b || a != a ? a : b;
  if constexpr (kReduce == Reduce::kMin) return a < b || a != a ? a : b;
  return add(a, b);
}

template <typename Format, Reduce kReduce>
void reduce_blocks(const void* const* sources, int source_count, void* const* targets, int target_count,
                   int64_t elements) {
  using Element = typename Format::Element;
  using Sum = typename Format::Sum;
  alignas(64) Sum sums[kBlock];
  [[maybe_unused]] alignas(64) Element results[std::is_same_v<Element, Sum> ? 1 : kBlock];
  for (int64_t start = 0; start < elements; start += kBlock) {
    const int64_t count = std::min(kBlock, elements - start);
    const auto* first = static_cast<const Element*>(sources[0]) + start;
    for (int64_t i = 0; i < count; ++i) sums[i] = Format::load(first[i]);
    for (int s = 1; s < source_count; ++s) {
      const auto* next = static_cast<const Element*>(sources[s]) + start;
      for (int64_t i = 0; i < count; ++i) sums[i] = combine<kReduce>(sums[i], Format::load(next[i]));
    }
    if constexpr (kReduce == Reduce::kMean) {
      for (int64_t i = 0; i < count; ++i) sums[i] /= static_cast<Sum>(source_count);
    }
    const void* result = sums;
    if constexpr (!std::is_same_v<Element, Sum>) {
      for (int64_t i = 0; i < count; ++i) results[i] = Format::store(sums[i]);
      result = results;
    }
    for (int t = 0; t < target_count; ++t) {
      std::memcpy(static_cast<Element*>(targets[t]) + start, result, sizeof(Element) * count);
    }
  }
}

using Blocks = void (*)(const void* const*, int, void* const*, int, int64_t);

template <typename Format>
Blocks blocks_of(Reduce reduce) {
  switch (reduce) {
    case Reduce::kSum: return reduce_blocks<Format, Reduce::kSum>;
    case Reduce::kProduct: return reduce_blocks<Format, Reduce::kProduct>;
    case Reduce::kMax: return reduce_blocks<Format, Reduce::kMax>;
    case Reduce::kMin: return reduce_blocks<Format, Reduce::kMin>;
    case Reduce::kMean: return reduce_blocks<Format, Reduce::kMean>;
  }
  return nullptr;
}

Blocks blocks_of(DType dtype, Reduce reduce) {
  switch (dtype) {
    case DType::kF32:
    case DType::kC64: return blocks_of<Plain<float, float>>(reduce);
    case DType::kF64:
    case DType::kC128: return blocks_of<Plain<double, double>>(reduce);
    case DType::kBF16: return blocks_of<BFloat16>(reduce);
    case DType::kF16:
    case DType::kC32: return blocks_of<Float16>(reduce);
    case DType::kI64: return blocks_of<Plain<int64_t, int64_t>>(reduce);
    case DType::kI32: return blocks_of<Plain<int32_t, int64_t>>(reduce);
    case DType::kI16: return blocks_of<Plain<int16_t, int64_t>>(reduce);
    case DType::kI8: return blocks_of<Plain<int8_t, int64_t>>(reduce);
    case DType::kU8: return blocks_of<Plain<uint8_t, int64_t>>(reduce);
    case DType::kBool: return blocks_of<Bool>(reduce);
    default: return nullptr;
  }
}

bool is_complex(DType dtype) { return dtype == DType::kC32 || dtype == DType::kC64 || dtype == DType::kC128; }

bool is_floating(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF64 || dtype == DType::kBF16 || dtype == DType::kF16;
}

}  // namespace

bool can_reduce(DType dtype, Reduce reduce) {
  if (blocks_of(dtype, reduce) == nullptr) return false;
  if (is_complex(dtype)) return reduce == Reduce::kSum || reduce == Reduce::kMean;
  return reduce != Reduce::kMean || is_floating(dtype);
}

void reduce(DType dtype, Reduce reduce, const void* const* sources, int source_count, void* const* targets,
            int target_count, int64_t elements) {
  MOAI_ASSERT(can_reduce(dtype, reduce), ir::dtype_name(dtype), " has no ", reduce_name(reduce));
  const int64_t numbers = is_complex(dtype) ? 2 * elements : elements;
  blocks_of(dtype, reduce)(sources, source_count, targets, target_count, numbers);
}

}  // namespace moai::runtime
