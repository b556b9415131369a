#pragma once

#include <cstdint>
#include <vector>

#include "compile/local/verify_local_graphs.h"

namespace moai::compile {

// Note [Buckets]
// Small collectives of one group that follow each other, with nobody reading the first one's result before
// the last one stands, are merged into one node at the last one's place: the devices meet once, and a network
// is asked once. Nothing is copied for it, each keeps its own memory. All devices of a group must merge the
// same: what one of them cannot, none does.
//
// No device waits for ever for it: where graphs pass verify, all collectives have one order that every device
// follows; to move one to a later place in that order leaves an order.

// Of a collective that is merged, operand and result together, and of a bucket.
struct BucketLimits {
  int64_t each = int64_t{256} << 10;
  int64_t together = int64_t{4} << 20;
};

// Merges the collectives of these graphs, and verifies them. Throws Error(Phase::kCompile): see
// verify_local_graphs.h.
DeviceGraphs merge_into_buckets(const DeviceGraphs& graphs, const std::vector<int32_t>& mesh,
                                const BucketLimits& limits = {});

}  // namespace moai::compile
