#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moai::ir {

using Dims = std::vector<int64_t>;

// Element type. The numbers equal c10::ScalarType's, which csrc/record asserts.
enum class DType : int8_t {
  kU8 = 0,
  kI8 = 1,
  kI16 = 2,
  kI32 = 3,
  kI64 = 4,
  kF16 = 5,
  kF32 = 6,
  kF64 = 7,
  kC32 = 8,
  kC64 = 9,
  kC128 = 10,
  kBool = 11,
  kBF16 = 15,
  kBits1x8 = 18,
  kBits2x4 = 19,
  kBits4x2 = 20,
  kBits8 = 21,
  kBits16 = 22,
  kF8E5M2 = 23,
  kF8E4M3FN = 24,
  kF8E5M2FNUZ = 25,
  kF8E4M3FNUZ = 26,
  kU16 = 27,
  kU32 = 28,
  kU64 = 29,
  // Of 1 to 7 bits, each in a byte of its own.
  kU1 = 30,
  kU2 = 31,
  kU3 = 32,
  kU4 = 33,
  kU5 = 34,
  kU6 = 35,
  kU7 = 36,
  kI1 = 37,
  kI2 = 38,
  kI3 = 39,
  kI4 = 40,
  kI5 = 41,
  kI6 = 42,
  kI7 = 43,
  kF8E8M0FNU = 44,
  kF4E2M1FNX2 = 45,  // two in a byte
};

// Of those that graphs hold: bools and packed bits are none.
constexpr bool is_integer(DType dtype) { return dtype <= DType::kI64; }

// Bytes of one element; 0 for a type this backend does not know.
int64_t element_bytes(DType dtype);
// "f32", "bf16", "i64", "bool", …; the names the text form uses.
const char* dtype_name(DType dtype);
// Inverse of dtype_name; returns false when the name is unknown.
bool parse_dtype(const std::string& name, DType* out);

// The type of a Value: how a whole storage, or a strided view of one, is laid out.
// Strides are in elements. `offset` of a view is not part of the type: offsets are numbers.
struct Type {
  DType dtype = DType::kF32;
  Dims sizes;
  Dims strides;

  // A contiguous (row-major) type.
  static Type contiguous(DType dtype, Dims sizes);
  int64_t numel() const;
  // Elements from the first to one past the last that the strides reach; 0 when empty.
  int64_t extent() const;
  // Bytes a storage needs to hold this type at offset 0.
  int64_t bytes() const { return extent() * element_bytes(dtype); }
  bool is_contiguous() const;
  // True when distinct indices reach distinct elements and every element of the extent is
  // reached: a permutation of a contiguous layout.
  bool is_dense() const;
  // `f32[8,16]`, or `f32[8,16]{1,8}` where the strides are not row-major.
  std::string str() const;

  bool operator==(const Type& other) const {
    return dtype == other.dtype && sizes == other.sizes && strides == other.strides;
  }
  bool operator!=(const Type& other) const { return !(*this == other); }
};

Dims contiguous_strides(const Dims& sizes);

}  // namespace moai::ir
