#include "record/repeat.h"

namespace moai::record {

namespace {

// The op and the types of its tensors; not which values they are, which differ in each round.
uint64_t hash_of(const TraceNode& node) {
  uint64_t h = reinterpret_cast<uintptr_t>(node.op);
  for (const auto& use : node.uses) h = (h ^ reinterpret_cast<uintptr_t>(use.view)) * 0x9E3779B97F4A7C15ULL;
  return h ^ (h >> 29);
}

}  // namespace

void RepeatDetector::clear() {
  hashes_.clear();
  last_seen_.clear();
  period_ = 0;
  matched_ = 0;
}

void RepeatDetector::append(uint64_t hash) {
  const auto at = static_cast<int32_t>(hashes_.size());
  if (period_ > 0 && hashes_[at - period_] == hash) {
    ++matched_;
  } else {
    const auto seen = last_seen_.find(hash);
    period_ = seen == last_seen_.end() ? 0 : at - seen->second;
    matched_ = period_ > 0 ? 1 : 0;
  }
  hashes_.push_back(hash);
  last_seen_[hash] = at;
}

bool RepeatDetector::repeats(const TraceNode& node, int32_t shortest) {
  // Ops that were followed before this one were not fed.
  std::vector<const TraceNode*> missed;
  for (const TraceNode* at = &node; at->op != nullptr && at->depth > static_cast<int32_t>(hashes_.size());
       at = at->parent) {
    missed.push_back(at);
  }
  for (auto it = missed.rbegin(); it != missed.rend(); ++it) append(hash_of(**it));
  return period_ > 0 && matched_ >= period_ && matched_ + period_ >= shortest && matched_ % period_ == 0;
}

}  // namespace moai::record
