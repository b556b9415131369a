#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "ir/type.h"

namespace moai::runtime {

// Bytes of a value, as runs of neighbouring ones: what a strided view shows.
struct Region {
  int64_t start = 0;
  std::vector<std::pair<int64_t, int64_t>> dims;  // outermost first: how many, and how many bytes apart
  int64_t run = 0;                                // bytes of each innermost run

  // Of a view, in elements. One whose elements share bytes, or lie in no order that goes up, is one run from
  // its first to its last byte.
  static Region of(const ir::Dims& sizes, const ir::Dims& strides, int64_t offset, int64_t element_bytes);
  // As [begin, end) pairs, ascending.
  std::vector<std::pair<int64_t, int64_t>> runs() const;
  // From the first to behind the last byte; empty where there is none.
  std::pair<int64_t, int64_t> extent() const;
};

}  // namespace moai::runtime
