// Collectives by plain code over indices, one element at a time: what a communicator is held against.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "runtime/communicator.h"

namespace moai::runtime {

using Bytes = std::vector<uint8_t>;

template <typename T>
void put(Bytes& bytes, int64_t at, T value) {
  std::memcpy(bytes.data() + at * static_cast<int64_t>(sizeof value), &value, sizeof value);
}

// Small whole numbers, so that no order of additions rounds; other types get random bits.
inline Bytes random_elements(ir::DType dtype, int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  Bytes bytes(count * ir::element_bytes(dtype));
  for (int64_t i = 0; i < count; ++i) {
    const int value = static_cast<int>(random() % 7) - 3;
    switch (dtype) {
      case ir::DType::kF32: put(bytes, i, static_cast<float>(value)); break;
      case ir::DType::kF64: put(bytes, i, static_cast<double>(value)); break;
      case ir::DType::kI64: put(bytes, i, static_cast<int64_t>(value)); break;
      case ir::DType::kI32: put(bytes, i, static_cast<int32_t>(value)); break;
      case ir::DType::kU8: put(bytes, i, static_cast<uint8_t>(value)); break;
      case ir::DType::kBool: put(bytes, i, static_cast<uint8_t>(value > 0)); break;
      default: {
        // Near one in bf16, f16 and f32, with random last bits.
        for (int64_t b = 0; b < ir::element_bytes(dtype); ++b) {
          bytes[i * ir::element_bytes(dtype) + b] = b % 2 == 1 ? 0x3c : static_cast<uint8_t>(random());
        }
      }
    }
  }
  return bytes;
}

template <typename T>
T plain_reduce(const std::vector<T>& values, Reduce how, bool is_bool) {
  T result = values[0];
  for (size_t i = 1; i < values.size(); ++i) {
    const T next = values[i];
    if (how == Reduce::kMax) result = std::max(result, next);
    if (how == Reduce::kMin) result = std::min(result, next);
    if (how == Reduce::kProduct) result = static_cast<T>(result * next);
    if (how == Reduce::kSum || how == Reduce::kMean) result = static_cast<T>(result + next);
  }
  if (how == Reduce::kMean) result = result / static_cast<T>(values.size());
  return is_bool ? static_cast<T>(result != 0) : result;
}

template <typename T>
void plain_reduce(const std::vector<Bytes>& in, Reduce how, bool is_bool, int64_t at, Bytes& out,
                  int64_t to) {
  std::vector<T> values(in.size());
  for (size_t r = 0; r < in.size(); ++r) std::memcpy(&values[r], in[r].data() + at * sizeof(T), sizeof(T));
  put(out, to, plain_reduce(values, how, is_bool));
}

// Where the element at `index` of the whole lies in a member's buffer; -1 where it has it not.
inline int64_t position(const ir::Dims& sizes, const Layout& layout, int rank, const ir::Dims& index) {
  int64_t at = 0;
  for (size_t d = 0; d < sizes.size(); ++d) {
    int64_t size = sizes[d];
    int64_t i = index[d];
    if (static_cast<int>(d) == layout.dim) {
      i -= std::accumulate(layout.parts.begin(), layout.parts.begin() + rank, int64_t{0});
      size = layout.parts[rank];
      if (i < 0 || i >= size) return -1;
    }
    at = at * size + i;
  }
  return at;
}

// Every member's result, by rank, of a collective of a whole group.
inline std::vector<Bytes> plain_collective(const Collective& what, const std::vector<Bytes>& in) {
  const auto members = static_cast<int>(in.size());
  const int64_t width = ir::element_bytes(what.dtype);
  std::vector<Bytes> out;
  for (int r = 0; r < members; ++r) out.emplace_back(what.out_elements(r) * width);
  int64_t count = 1;
  for (const int64_t size : what.sizes) count *= size;
  ir::Dims index(what.sizes.size());
  for (int64_t element = 0; element < count; ++element) {
    int64_t rest = element;
    for (size_t d = what.sizes.size(); d-- > 0; rest /= what.sizes[d]) index[d] = rest % what.sizes[d];
    int source = what.kind == Collective::Kind::kBroadcast ? what.peer : 0;
    while (position(what.sizes, what.from, source, index) < 0) ++source;
    const int64_t from = position(what.sizes, what.from, source, index);
    for (int target = 0; target < members; ++target) {
      const int64_t to = position(what.sizes, what.to, target, index);
      if (to < 0) continue;
      if (!what.reduces()) {
        std::memcpy(&out[target][to * width], &in[source][from * width], width);
        continue;
      }
      const bool is_bool = what.dtype == ir::DType::kBool;
      switch (what.dtype) {
        case ir::DType::kF32: plain_reduce<float>(in, what.reduce, false, from, out[target], to); break;
        case ir::DType::kF64: plain_reduce<double>(in, what.reduce, false, from, out[target], to); break;
        case ir::DType::kI64: plain_reduce<int64_t>(in, what.reduce, false, from, out[target], to); break;
        case ir::DType::kI32: plain_reduce<int32_t>(in, what.reduce, false, from, out[target], to); break;
        default: plain_reduce<uint8_t>(in, what.reduce, is_bool, from, out[target], to); break;
      }
    }
  }
  return out;
}

}  // namespace moai::runtime
