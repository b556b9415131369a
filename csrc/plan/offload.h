#pragma once

#include <string_view>
#include <vector>

#include "plan/atoms.h"
#include "plan/rematerialise.h"
#include "plan/roles.h"

namespace moai::plan {

// What waits in the host's memory, and not in a device's.
enum class Offload : uint8_t {
  kNone,
  // What forward made and backward reads again (Rhu et al. 2016), but for what is small and what backward
  // wants at once.
  kActivations,
};
inline constexpr Offload kOffloads[] = {Offload::kNone, Offload::kActivations};

const char* offload_name(Offload offload);  // "none", "activations"
// Throws Error(Phase::kConfig) naming the two.
Offload parse_offload(std::string_view name);

// Gives backward its own copies of what it reads of forward: one goes to the host after the last use in
// forward, and comes back before the first in backward (see Note [Values on the host]), early enough to be on
// its way while others are used: as much lies ready as twice the largest of them takes. For everything behind
// it such a plan is an ordinary graph. Computes the same outputs from the same inputs.
//
// `frame` is the graph's, `cuts` those of forward (find_cuts). What is used behind the last of them stays, as
// do the smallest values, a hundredth of the bytes, and what has no batch in it, since all turns share that.
struct Offloaded {
  ir::Graph graph;
  // By node: which one of the given graph it is; of a copy to or from the host, forward's last that uses the
  // value.
  std::vector<ir::NodeId> original;
};
Offloaded offload_activations(const ir::Graph& graph, const Frame& frame, const std::vector<Cut>& cuts);

}  // namespace moai::plan
