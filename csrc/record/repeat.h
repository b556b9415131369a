#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "record/trace.h"

namespace moai::record {

// Finds where a stream of ops has begun to repeat itself, for loops that neither read nor step an
// optimizer (`for batch in batches: outputs = model(batch)`): without a cut they would record for
// ever. Fed with each op that is recorded for the first time; a followed op needs no look, since
// the node where a stream was cut says so (`cut_after`).
//
// Constant time an op: the candidate for the period is the distance to the last op like this one;
// it stands for as long as each further op equals the one a period before.
class RepeatDetector {
 public:
  // `node` is the new last op. True when the last stretch of at least `shortest` ops is a whole
  // number (two or more) of equal periods.
  bool repeats(const TraceNode& node, int32_t shortest);
  void clear();

 private:
  void append(uint64_t hash);

  std::vector<uint64_t> hashes_;  // by op since the last cut
  std::unordered_map<uint64_t, int32_t> last_seen_;
  int32_t period_ = 0;
  int32_t matched_ = 0;  // ops in a row that equal the one a period before
};

}  // namespace moai::record
