#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace moai::engine {

// Finds the cycle of traces that a script goes through: a training step that reads its loss before
// backward is two traces, and the two together are what is planned. Not thread-safe.
class CycleDetector {
 public:
  // A trace was launched.
  void launched(uint64_t trace);
  // The traces of the shortest cycle that the last launches went through at least twice, the
  // earliest first; empty while there is none.
  std::vector<uint64_t> cycle() const;

 private:
  static constexpr size_t kLongest = 64;
  std::vector<uint64_t> recent_;  // at most 2 * kLongest
};

}  // namespace moai::engine
