#pragma once

#include <memory>
#include <string>
#include <vector>

#include "record/infer.h"
#include "record/recorder.h"

namespace moai::record {

// Why a call that encodes cannot be a node after all; null when it can.
const char* not_recordable(const OpSchema& op, at::ArrayRef<at::IValue> args);

// The node of a call that no known trace has after `segment.at`; the mirror of encode. It is in no list of
// nodes yet, and its section and line are for the caller to set. The lock must be held.
//
// * `key`: the call in words, whose inputs encode has added to the segment.
// * `first_number`: where among the segment's numbers those of this call begin.
std::unique_ptr<TraceNode> new_node(const OpSchema& op, at::ArrayRef<at::IValue> args, Segment& segment,
                                    std::vector<int64_t> key, Inferred inferred, int32_t first_number);

// For the log: how an op that no known trace has at this place differs from the one that it has.
std::string describe_difference(const TraceNode& known, const TraceNode& now);

}  // namespace moai::record
