#include "engine/cycle.h"

#include <algorithm>

namespace moai::engine {

void CycleDetector::launched(uint64_t trace) {
  if (recent_.size() == 2 * kLongest) recent_.erase(recent_.begin());
  recent_.push_back(trace);
}

std::vector<uint64_t> CycleDetector::cycle() const {
  for (size_t length = 1; 2 * length <= recent_.size(); ++length) {
    if (std::equal(recent_.end() - static_cast<ptrdiff_t>(length), recent_.end(),
                   recent_.end() - static_cast<ptrdiff_t>(2 * length))) {
      return {recent_.end() - static_cast<ptrdiff_t>(length), recent_.end()};
    }
  }
  return {};
}

}  // namespace moai::engine
