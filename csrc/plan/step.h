#pragma once

#include <string>
#include <tuple>
#include <vector>

#include "plan/fold.h"
#include "plan/hand_on.h"
#include "plan/kept_whole.h"
#include "plan/offload.h"
#include "plan/rematerialise.h"
#include "plan/roles.h"

namespace moai::plan {

// What one part of the fold makes and another reads.
struct Use {
  int32_t from = 0;               // colour
  int32_t result = 0;             // of `from`; 0 for an input
  int32_t to = 0;                 // colour
  int32_t operand = 0;            // of `to`; kUpdates: `to` is an input that the step updates with it
  double in_turn = 0;             // how often, in each turn
  double once = 0;                // and beside
  ir::ValueId value = ir::kNone;  // one of them

  static constexpr int32_t kUpdates = -1;
};

// How the graph of a step is written anew before its nodes get their places.
struct Rewriting {
  Recompute recompute = Recompute::kNone;
  Offload offload = Offload::kNone;
  Gradients gradients = Gradients::kLate;
  double capacity = 0;  // of experts, for rows that are sent to them (send_rows.h); 0: none are

  // Whether it is the step as it was recorded, but for its rows.
  bool only_sends() const {
    return recompute == Recompute::kNone && offload == Offload::kNone && gradients == Gradients::kLate;
  }
  bool operator<(const Rewriting& other) const {
    return std::tie(recompute, offload, gradients, capacity) <
           std::tie(other.recompute, other.offload, other.gradients, other.capacity);
  }
  bool operator==(const Rewriting& other) const { return !(*this < other) && !(other < *this); }
};

// A recorded step made ready for planning, with what no mesh changes: one for each way to write it.
struct Step {
  ir::Graph graph;  // views canonical, lists split by element
  Frame frame;
  Roles roles;
  TimeAxis time;
  Fold fold;
  std::vector<Use> uses;  // each pair of results and operands of the fold once
  // By operand, counted over all nodes in their order: which of `uses` it is.
  std::vector<int32_t> use_of_edge;

  // Forward as a line of stretches between the cuts, and where on it each node lies: backward's where the
  // forward values that it reads are, the optimizer's where its weights are. kNone: anywhere.
  std::vector<Cut> cuts;
  std::vector<int32_t> stretch_of_node;
  std::vector<int32_t> stretch_of_input;
  // By node: it hands on what turns add up (hand_on.h).
  std::vector<bool> hands_on;
  // By node of backward: it does so, or works on what was handed on, and may be split along any axis, as the
  // optimizer's nodes may.
  std::vector<bool> is_of_sums;
  // Of backward's nodes: only a weight's gradient depends on it, so that it may run later.
  std::vector<bool> is_weight_gradient;

  // What a value lies in: itself, or for views and tied results what they show. What is handed on lies in
  // itself, as it may lie elsewhere than what it came from.
  std::vector<ir::ValueId> base;
  // By base: the last node that reads it or a view of it; the number of nodes for outputs; -1 for nobody.
  std::vector<ir::NodeId> last_use;

  // By value: it lies on the host.
  std::vector<bool> on_host;

  // Nodes of a turn that take time.
  int32_t loop_ops = 0;

  // What a node reads may wait for others to go with it in a bucket, as gradients and updated weights do;
  // what forward and backward wait for goes at once.
  bool is_bucketed(ir::NodeId n) const { return !roles.in_loop(n) || is_of_sums[n]; }
  // Whether turns add up a base where it lies: a gradient that waits for the optimizer.
  bool is_sum(ir::ValueId value) const {
    const auto producer = graph.value(value).producer;
    return producer >= roles.forward_end && producer < roles.backward_end && base[value] == value &&
           last_use[value] >= roles.backward_end;
  }
  int32_t stretches() const { return static_cast<int32_t>(cuts.size()) + 1; }
};

// The step as it was recorded, for the others. Throws Error(Phase::kPlan) on a rule that contradicts its op.
Step make_step(const ir::Graph& graph);
// The same with rows in slots (send_rows.h).
Step send_rows(const Step& step, double capacity);
// The same step written anew; of a capacity, `step` is with its rows in slots.
Step make_step(const Step& step, const Rewriting& rewriting);

}  // namespace moai::plan
