#pragma once

#include <algorithm>
#include <cstdint>

namespace moai::plan {

// A run of indices.
struct Part {
  int64_t start = 0;
  int64_t length = 0;

  int64_t end() const { return start + length; }
};

// Part `index` of `count` of a range; sizes differ by one at most. A part of a part is a part of the whole:
// parts [i n, i n + n) of m n together are part i of m.
inline Part part_of(int64_t size, int64_t index, int64_t count) {
  const int64_t start = size * index / count;
  return {start, size * (index + 1) / count - start};
}

// What both have; where that is nothing, no length somewhere in `b`.
inline Part common(const Part& a, const Part& b) {
  const int64_t start = std::clamp(a.start, b.start, b.end());
  return {start, std::clamp(a.end(), start, b.end()) - start};
}

}  // namespace moai::plan
