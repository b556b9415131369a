#pragma once

#include <memory>
#include <string>
#include <vector>

#include "plan/candidate.h"
#include "plan/kept_whole.h"
#include "plan/pins.h"

namespace moai::plan {

struct StepPlan {
  std::vector<Candidate> candidates;  // those that fit by step time, then the others by bytes
  double lower_bound =
      0;                  // of what assignments add up to (nothing overlapping), over all that was not pinned
  double gap = 0;         // by which share of its own sum the best might be cheaper
  double mesh_gap = 0;    // the same among plans with the best's stages, mesh, turns and recomputation
  int32_t tried = 0;      // solved with the memory's limit
  int32_t ruled_out = 0;  // by a bound
  double flops = 0;       // of the step as recorded
  int64_t batch = 0;      // samples in it; 0 where no input is a batch
  std::string no_turns;   // why the batch cannot be gone through in parts; empty where it can
  KeptWhole kept_whole;
  std::shared_ptr<const Step> step;   // what the best one's assignment is of: with its recomputation
  std::shared_ptr<const Frame> turn;  // of one of its turns
  double rules_seconds = 0;           // wall time
  double bound_seconds = 0;
  double search_seconds = 0;

  const Candidate& best() const { return candidates.front(); }
};

// Plans a step on a cluster: pipeline stages, their meshes of up to three axes, micro-batches, what is
// recomputed, and where everything lies. All devices are used. Note [How plans are searched] in planner.cpp.
// `graph` is a step with canonical views (lists need not be split).
//
// Throws Error(Phase::kPlan) on a rule that contradicts its op, and on pins that are impossible, naming the
// op and the dimension.
StepPlan plan_step(const ir::Graph& graph, const Cluster& cluster, const Pins& pins = {});

}  // namespace moai::plan
