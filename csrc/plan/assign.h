#pragma once

#include <vector>

#include "plan/fold.h"
#include "plan/options.h"
#include "plan/solver/solve_within.h"

namespace moai::plan {

// The moments of a step at which its memory is counted: where forward ends, with all that backward needs, and
// where backward ends, with all gradients.
struct Moments {
  static constexpr int32_t kCount = 2;
  std::vector<std::vector<ir::ValueId>> live;  // by moment: the values, besides the inputs
  ir::NodeId backward_end = 0;                 // the first node after it: the optimizer's
};
Moments moments(const ir::Graph& graph, const Frame& frame);

// The input whose memory an output takes over, through tied results and whole updates: what a step updates
// must end where it began. An input that is an output is its own; kNone of a new value.
ir::ValueId updated_input(const ir::Graph& graph, ir::ValueId output);

// A placement for everything in a step, on one mesh.
struct Assignment {
  bool fits = false;
  double seconds = 0;      // the sum of computing and communicating: nothing overlaps
  double lower_bound = 0;  // of `seconds`, for plans that treat equal layers alike, on this mesh
  double compute_seconds = 0;
  double communicate_seconds = 0;
  std::vector<double> bytes;      // by moment, on one device
  double state_bytes = 0;         // of which inputs: weights, states, data
  std::vector<Option> nodes;      // by node
  std::vector<Placement> inputs;  // by input
  int32_t variables = 0;          // after folding
  int32_t options = 0;            // of all variables
  bool exact = false;             // `seconds` is proven least, on this mesh
  int32_t rounds = 0;             // of prices on memory
  std::string excess;             // where nothing fits: what is exceeded
};

// Chooses, for every node and input, how it is split, at the least time with `memory_bytes` on each device.
// What the step updates in place must end where it began, at the price of bringing it there.
//
// The graph is the step of one of `micro_batches` equal parts of the batch: forward and backward are gone
// through so often, their gradients added up where they lie, and the optimizer once.
Assignment assign(const ir::Graph& graph, const Frame& frame, const Mesh& mesh, double memory_bytes,
                  int32_t micro_batches = 1);

// What `assign` hands to the solver: a variable for each colour of the fold, seconds as costs, and the bytes
// at each moment. For tests, which solve it in other ways.
struct AssignmentProblem {
  FactorGraph costs;
  Resources memory;
};
AssignmentProblem assignment_problem(const ir::Graph& graph, const Frame& frame, const Mesh& mesh,
                                     double memory_bytes, int32_t micro_batches = 1);

}  // namespace moai::plan
