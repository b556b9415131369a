#pragma once

#include <cstdint>
#include <unordered_map>

#include "ir/graph.h"

namespace moai::compile {

// The weight of all targets of each loss that is a mean, from the targets alone: whoever read it of the loss
// reads this, and need not wait for logits.
struct TargetWeights {
  ir::Graph graph;
  std::unordered_map<ir::NodeId, ir::ValueId> of_loss;
};

// Of losses whose log-probabilities have more than `most_bytes`.
TargetWeights weigh_targets(const ir::Graph& graph, int64_t most_bytes);

}  // namespace moai::compile
