#include "ir/type.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <numeric>

namespace moai::ir {

namespace {

struct DTypeRow {
  DType dtype;
  const char* name;
  int64_t bytes;
};

constexpr DTypeRow kDTypes[] = {
    {DType::kU8, "u8", 1},
    {DType::kI8, "i8", 1},
    {DType::kI16, "i16", 2},
    {DType::kI32, "i32", 4},
    {DType::kI64, "i64", 8},
    {DType::kF16, "f16", 2},
    {DType::kF32, "f32", 4},
    {DType::kF64, "f64", 8},
    {DType::kC32, "c32", 4},
    {DType::kC64, "c64", 8},
    {DType::kC128, "c128", 16},
    {DType::kBool, "bool", 1},
    {DType::kBF16, "bf16", 2},
    {DType::kF8E5M2, "f8e5m2", 1},
    {DType::kF8E4M3FN, "f8e4m3fn", 1},
    {DType::kF8E5M2FNUZ, "f8e5m2fnuz", 1},
    {DType::kF8E4M3FNUZ, "f8e4m3fnuz", 1},
    {DType::kU16, "u16", 2},
    {DType::kU32, "u32", 4},
    {DType::kU64, "u64", 8},
    {DType::kF8E8M0FNU, "f8e8m0fnu", 1},
    {DType::kBits1x8, "bits1x8", 1},
    {DType::kBits2x4, "bits2x4", 1},
    {DType::kBits4x2, "bits4x2", 1},
    {DType::kBits8, "bits8", 1},
    {DType::kBits16, "bits16", 2},
    {DType::kU1, "u1", 1},
    {DType::kU2, "u2", 1},
    {DType::kU3, "u3", 1},
    {DType::kU4, "u4", 1},
    {DType::kU5, "u5", 1},
    {DType::kU6, "u6", 1},
    {DType::kU7, "u7", 1},
    {DType::kI1, "i1", 1},
    {DType::kI2, "i2", 1},
    {DType::kI3, "i3", 1},
    {DType::kI4, "i4", 1},
    {DType::kI5, "i5", 1},
    {DType::kI6, "i6", 1},
    {DType::kI7, "i7", 1},
    {DType::kF4E2M1FNX2, "f4e2m1fnx2", 1},
};

constexpr size_t kMostDTypes = 64;

// By number: asked for each tensor of each plan.
constexpr std::array<const DTypeRow*, kMostDTypes> rows() {
  std::array<const DTypeRow*, kMostDTypes> all{};
  for (const auto& entry : kDTypes) all[static_cast<size_t>(entry.dtype)] = &entry;
  return all;
}

const DTypeRow* row(DType dtype) {
  static constexpr auto kRows = rows();
  const auto number = static_cast<size_t>(dtype);
  return number < kMostDTypes ? kRows[number] : nullptr;
}

}  // namespace

int64_t element_bytes(DType dtype) {
  const auto* entry = row(dtype);
  return entry ? entry->bytes : 0;
}

const char* dtype_name(DType dtype) {
  const auto* entry = row(dtype);
  return entry ? entry->name : "?";
}

bool parse_dtype(const std::string& name, DType* out) {
  for (const auto& entry : kDTypes) {
    if (name == entry.name) {
      *out = entry.dtype;
      return true;
    }
  }
  return false;
}

Dims contiguous_strides(const Dims& sizes) {
  Dims strides(sizes.size());
  uint64_t stride = 1;  // wraps around on nonsense, which verify finds later
  for (size_t i = sizes.size(); i-- > 0;) {
    strides[i] = static_cast<int64_t>(stride);
    stride *= static_cast<uint64_t>(std::max<int64_t>(sizes[i], 1));
  }
  return strides;
}

Type Type::contiguous(DType dtype, Dims sizes) {
  Dims strides = contiguous_strides(sizes);
  return {dtype, std::move(sizes), std::move(strides)};
}

int64_t Type::numel() const {
  return std::accumulate(sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<>());
}

int64_t Type::extent() const {
  int64_t last = 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] == 0) return 0;
    last += (sizes[i] - 1) * strides[i];
  }
  return last + 1;
}

bool Type::is_contiguous() const {
  int64_t stride = 1;
  for (size_t i = sizes.size(); i-- > 0;) {
    if (sizes[i] == 0) return true;
    if (sizes[i] != 1 && strides[i] != stride) return false;
    stride *= sizes[i];
  }
  return true;
}

bool Type::is_dense() const {
  if (is_contiguous()) return true;
  std::vector<size_t> order;
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] == 0) return true;
    if (sizes[i] != 1) order.push_back(i);
  }
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return strides[a] < strides[b]; });
  int64_t stride = 1;
  for (const size_t i : order) {
    if (strides[i] != stride) return false;
    stride *= sizes[i];
  }
  return true;
}

std::string Type::str() const {
  const auto list = [](const Dims& dims) {
    std::string text;
    for (size_t i = 0; i < dims.size(); ++i) text += (i ? "," : "") + std::to_string(dims[i]);
    return text;
  };
  std::string text = std::string(dtype_name(dtype)) + "[" + list(sizes) + "]";
  if (strides != contiguous_strides(sizes)) text += "{" + list(strides) + "}";
  return text;
}

}  // namespace moai::ir
