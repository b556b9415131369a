#pragma once

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "plan/options.h"
#include "plan/solver/solve_within.h"
#include "plan/step.h"

namespace moai::plan {

// What is settled before the devices of a mesh are given their parts.
struct Terms {
  double memory_bytes = 0;   // of each device
  int32_t turns = 1;         // micro-batches
  int32_t stages = 1;        // of a pipeline; each has a mesh of its own
  double idle_turns = 0;     // that a stage waits while the pipeline fills and drains
  double enough_gap = 1e-3;  // to the bound, at which the search for a better choice ends
  double proof_gap = 0;      // the same of each solution at fixed prices on memory
  int32_t rounds = 24;       // of prices on memory, at most
  double steps = 8e9;        // of the solver, for a proof in each round
  int32_t branches = 200;    // of it, where eliminations do not fit
  int32_t halvings = 3;      // levels of halves in which a gap that memory leaves is narrowed
  // Seconds that an assignment must stay below to be of use: where none does, any or none may come back.
  double give_up = std::numeric_limits<double>::infinity();
  // Whether every contraction that can be split along an axis must be.
  bool uses_axes = false;
  // ZeRO's stage, on axes that split the batch; -1 for whatever is best.
  int32_t zero = -1;
  std::vector<bool> copies;  // by axis: weights and states lie whole along it; empty: along none
  // By node: choices by axis that it must make; empty where it is free.
  std::vector<std::vector<AxisChoice>> pinned_nodes;
  // By input: where it must lie; empty where it is free.
  std::vector<Placement> pinned_inputs;
};

// A placement for everything in a step, on one mesh.
struct Assignment {
  bool fits = false;
  double seconds = 0;      // of a device: the sum of computing and communicating; nothing overlaps
  double lower_bound = 0;  // of `seconds`, for plans that treat equal layers alike, on this mesh
  double compute_seconds = 0;
  double communicate_seconds = 0;
  double bytes = 0;            // the most at any moment, on one device
  double state_bytes = 0;      // of which inputs: weights, states, data
  double scratch_bytes = 0;    // of which what the op that runs then works on beside its tensors
  Repeated<Option> nodes;      // by node
  Repeated<Placement> inputs;  // by input
  int32_t variables = 0;       // after folding
  int32_t options = 0;         // of all variables
  bool exact = false;          // `seconds` is proven least, on this mesh
  int32_t rounds = 0;          // of prices on memory
  // At which the most lies on a device. Where nothing fits: at which the least is too much; then nodes and
  // inputs lie as they take least there.
  ir::NodeId fullest = 0;
  std::string excess;  // where nothing fits: what is exceeded

  // Where a value of the graph lies.
  const Placement& placement(const ir::Graph& graph, ir::ValueId value) const {
    const auto& v = graph.value(value);
    return v.producer == ir::kNone ? inputs[v.index] : nodes[v.producer].results[v.index];
  }
};

// What `assign` hands to the solver first: a variable for each colour of the fold, seconds as costs, and the
// bytes at each moment. For tests, which solve it in other ways.
struct AssignmentProblem {
  FactorGraph costs;
  Resources memory;
};

// Chooses, for every node and input, how it is split, at the least time with `memory_bytes` on each device.
// What the step updates in place must end where it began, at the price of bringing it there.
//
// `turn` is the frame of one micro-batch (frame_of_turn). Memory is counted at the ends of forward and of
// backward, and at any other moment at which a choice was seen to take too much. In a pipeline a device has
// one stage's share of what lies still, and of forward's values one for each micro-batch on its way.
//
// Throws Error(Phase::kPlan) when a pin is impossible, naming the op and the dimension.
Assignment assign(const Step& step, const Frame& turn, const Mesh& mesh, const Terms& terms);

// The first question that `assign` asks its solver.
AssignmentProblem assignment_problem(const Step& step, const Frame& turn, const Mesh& mesh,
                                     const Terms& terms);

}  // namespace moai::plan
