#pragma once

#include <cstdint>
#include <vector>

namespace moai::compile {

// A buffer and the instructions during which it is needed, both ends included.
struct Interval {
  int64_t bytes;
  int32_t first;
  int32_t last;
};

struct ArenaPlan {
  std::vector<int64_t> offsets;  // per interval, multiples of the alignment; 0 for empty buffers
  int64_t bytes;                 // what the arena must hold
  int64_t lower_bound;           // most bytes alive at one time, each buffer rounded up to the alignment
};

// Gives every buffer an offset such that those needed at the same time do not overlap.
//
// Deterministic. Tries a few orders and keeps the best; `bytes / lower_bound - 1` is at most the
// share that any arena could still save.
ArenaPlan plan_arena(const std::vector<Interval>& intervals, int64_t alignment = 64);

}  // namespace moai::compile
