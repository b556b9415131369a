#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "plan/atoms.h"

namespace moai::plan {

// What backward computes again instead of keeping it from forward.
enum class Recompute : uint8_t {
  kNone,
  // What is cheap: ops bound by memory (pointwise, norms, softmax) whose operands are kept anyway or are no
  // larger than what need not be kept.
  kSelective,
  // All but what crosses a few cuts of forward: those that make the sum of what is kept and of the largest
  // stretch between two cuts least (Chen et al. 2016, with the cuts chosen exactly).
  kFull,
};
inline constexpr Recompute kRecomputes[] = {Recompute::kNone, Recompute::kSelective, Recompute::kFull};

// At which cuts `kFull` keeps what crosses.
enum class Checkpoints : uint8_t {
  kFew,  // as it says
  kAll,  // all of them: what is kept takes none of the device's memory, so that shorter stretches cost
         // nothing
};

const char* recompute_name(Recompute policy);  // "none", "selective", "full"
// Throws Error(Phase::kConfig) naming the three.
Recompute parse_recompute(std::string_view name);

// Gives backward nodes of its own for what it computes again, each right before its first use: for
// everything behind it such a plan is an ordinary graph. Computes the same outputs from the same inputs.
//
// `frame` is the graph's; bytes are counted whole, so that the policy does not depend on how values are
// split.
struct Rematerialised {
  ir::Graph graph;
  std::vector<ir::NodeId> original;  // by node: which one of the given graph it is, or computes again
};
Rematerialised rematerialise(const ir::Graph& graph, const Frame& frame, Recompute policy,
                             Checkpoints checkpoints = Checkpoints::kFew);
// The same for given nodes of forward.
Rematerialised repeat(const ir::Graph& graph, const std::vector<bool>& again);

// Places at which forward can be cut: node numbers before which so few bytes cross (values that forward made
// before and that are used after, in forward) as nowhere near. Ascending, the ends left out.
struct Cut {
  ir::NodeId before;
  double bytes;  // that cross, whole
};
std::vector<Cut> find_cuts(const ir::Graph& graph, const Frame& frame);

}  // namespace moai::plan
