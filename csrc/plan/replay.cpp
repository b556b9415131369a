#include "plan/replay.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

#include "ir/error.h"
#include "plan/pipeline_cost.h"

namespace moai::plan {

namespace {

// More than any plan takes, and sums with it do not overflow.
constexpr double kAnyMemory = 1e30;

void check(const OuterChoice& outer, const Cluster& cluster, const Step& step) {
  const int64_t devices =
      std::accumulate(outer.mesh.begin(), outer.mesh.end(), int64_t{1}, std::multiplies<>());
  if (devices * outer.stages != cluster.device_count()) {
    throw Error(Phase::kPlan, concat("the plan is of ", outer.stages, " stages of ", devices,
                                     " devices, and ", cluster.name, " has ", cluster.device_count()));
  }
  const bool divides = step.time.obstacle.empty() && step.time.size % outer.micro_batches == 0;
  if (outer.micro_batches > 1 && !divides)
    throw Error(Phase::kPlan, concat("the plan's ", outer.micro_batches, " turns do not divide this batch"));
}

template <typename List>
bool leaves_open(const std::vector<List>& pinned) {
  return std::any_of(pinned.begin(), pinned.end(), [](const List& choices) { return choices.empty(); });
}

}  // namespace

Replay replay(const ir::Graph& graph, const Cluster& cluster, const SavedPlan& plan, bool has_tasks) {
  const OuterChoice& outer = plan.outer;
  Replay out;
  out.step = make_step(graph);
  if (outer.capacity > 0) out.step = send_rows(out.step, outer.capacity);
  if (!outer.rewriting().only_sends()) out.step = make_step(out.step, outer.rewriting());
  check(outer, cluster, out.step);
  out.turn = frame_of_turn(out.step.frame, out.step.time, outer.micro_batches);
  Terms terms;
  terms.memory_bytes = kAnyMemory;
  terms.turns = outer.micro_batches;
  terms.stages = outer.stages;
  pin_saved(plan, out.step, &terms);
  const bool has_axes = !outer.mesh.empty();  // one device a stage: nothing is split
  if (has_axes && (leaves_open(terms.pinned_nodes) || leaves_open(terms.pinned_inputs)))
    throw Error(Phase::kPlan, "the plan leaves open how a node or an input is split");
  const Mesh mesh = Mesh::make(cluster, outer.mesh, outer.splits);
  out.assignment = assign(out.step, out.turn, mesh, terms);
  if (outer.stages == 1 || !has_tasks) return out;
  const PipelineCost cost = pipeline_cost(stretches(out.step, out.turn, mesh, out.assignment), outer, cluster,
                                          static_cast<double>(cluster.smallest_memory()));
  if (!cost.excess.empty()) throw Error(Phase::kPlan, "the plan's pipeline cannot be: " + cost.excess);
  out.stage_begins = cost.stage_begins;
  out.schedule = cost.schedule;
  return out;
}

}  // namespace moai::plan
