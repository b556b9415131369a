#pragma once

#include <ATen/core/Tensor.h>

#include "ir/type.h"

namespace moai::record {

// How a storage's value is laid out. Interned and never freed: equal layouts have one address, so
// that following a trace compares pointers.
struct Layout {
  ir::Type type;
  int64_t bytes = 0;
};

// Thread-safe.
const Layout* intern_layout(at::IntArrayRef sizes, at::IntArrayRef strides, at::ScalarType dtype);
inline const Layout* layout_of(const at::Tensor& t) {
  return intern_layout(t.sizes(), t.strides(), t.scalar_type());
}

inline ir::DType to_ir(at::ScalarType dtype) { return static_cast<ir::DType>(dtype); }
inline at::ScalarType to_aten(ir::DType dtype) { return static_cast<at::ScalarType>(dtype); }

static_assert(static_cast<int>(ir::DType::kBF16) == static_cast<int>(at::ScalarType::BFloat16));
static_assert(static_cast<int>(ir::DType::kF32) == static_cast<int>(at::ScalarType::Float));
static_assert(static_cast<int>(ir::DType::kBool) == static_cast<int>(at::ScalarType::Bool));
static_assert(static_cast<int>(ir::DType::kC128) == static_cast<int>(at::ScalarType::ComplexDouble));
static_assert(static_cast<int>(ir::DType::kU64) == static_cast<int>(at::ScalarType::UInt64));
static_assert(static_cast<int>(ir::DType::kF8E8M0FNU) == static_cast<int>(at::ScalarType::Float8_e8m0fnu));
static_assert(static_cast<int>(ir::DType::kBits16) == static_cast<int>(at::ScalarType::Bits16));
static_assert(static_cast<int>(ir::DType::kU1) == static_cast<int>(at::ScalarType::UInt1));
static_assert(static_cast<int>(ir::DType::kI7) == static_cast<int>(at::ScalarType::Int7));
static_assert(static_cast<int>(ir::DType::kF4E2M1FNX2) == static_cast<int>(at::ScalarType::Float4_e2m1fn_x2));

// Throws for a type that no value of ours can have.
void check_type(at::ScalarType dtype);

// Integers of 1 to 7 bits, each in a byte of its own: the CPU copies and casts none of them.
inline bool is_bytes_only(at::ScalarType dtype) {
  return dtype >= at::ScalarType::UInt1 && dtype <= at::ScalarType::Int7;
}

}  // namespace moai::record
