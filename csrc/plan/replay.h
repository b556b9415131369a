#pragma once

#include <memory>
#include <vector>

#include "plan/plan_file.h"

namespace moai::plan {

// A saved plan, and what it is of: made ready as a search would leave it.
struct Replay {
  Step step;   // with the plan's recomputation
  Frame turn;  // of one of its turns
  Assignment assignment;
  std::vector<int32_t> stage_begins;         // of a pipeline: see Candidate
  std::shared_ptr<const Schedule> schedule;  // likewise
};

// Follows a saved plan with no search: milliseconds where `plan_step` takes seconds. Whether it fits in the
// devices' memory is not asked. `has_tasks`: it is of a step of training, which several stages take turns at.
//
// Throws Error(Phase::kPlan) where the plan is of another step or of other devices, or leaves anything open.
Replay replay(const ir::Graph& graph, const Cluster& cluster, const SavedPlan& plan, bool has_tasks = true);

}  // namespace moai::plan
