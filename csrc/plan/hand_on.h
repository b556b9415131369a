#pragma once

#include <vector>

#include "plan/roles.h"

namespace moai::plan {

// When gradients are brought to where the optimizer wants them, and so how much of them waits for it.
enum class Gradients : uint8_t {
  kLate,    // after the last turn: until then a device has its own sums, whole
  kAtOnce,  // as each turn makes them: a device adds up its shard (ZeRO's second stage; Rajbhandari et al.
            // 2020)
};

// Puts a node behind everything that turns add up in backward, which hands it on to those that read the sum
// after the last turn, and runs in each turn. Such a node can lie sharded while what it reads is a partial
// sum, so that the two are apart: for everything behind it this is an ordinary graph. Computes the same
// outputs from the same inputs.
struct HandedOn {
  ir::Graph graph;
  std::vector<ir::NodeId>
      original;  // by node: which one of the given graph it is; kNone of those that are new
};
HandedOn hand_on_gradients(const ir::Graph& graph, const Frame& frame, const Roles& roles,
                           const TimeAxis& time);

}  // namespace moai::plan
