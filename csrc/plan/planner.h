#pragma once

#include <string>
#include <vector>

#include "plan/assign.h"
#include "plan/kept_whole.h"

namespace moai::plan {

// What one axis of the mesh does, in words and in shares of the step's FLOPs.
struct AxisUse {
  int32_t size = 1;
  std::string name;  // "data", "sequence", "tensor", "whole": what most FLOPs are split by
  double data = 0;   // by the batch
  double sequence = 0;
  double tensor = 0;  // by features, heads, vocabulary, experts
  double whole = 0;   // not at all
};

// The best plan on one mesh, for one number of micro-batches.
struct Candidate {
  std::vector<int32_t> mesh;  // axis sizes, outermost first
  Assignment assignment;
  std::vector<AxisUse> axes;
  double peak_bytes = 0;      // the larger of the moments'
  double search_seconds = 0;  // wall time
  std::string layout;         // in words: "data 8 x tensor 8; states in 64 parts"
};

struct StepPlan {
  int32_t micro_batches = 1;
  std::vector<Candidate> candidates;  // those that fit by time, then the others by bytes
  double lower_bound = 0;             // over all meshes that were tried
  KeptWhole kept_whole;
  double frame_seconds = 0;  // wall time of rules and factors
  double search_seconds = 0;

  const Candidate& best() const { return candidates.front(); }
};

// Plans a step on every mesh of up to `axes` axes that follows the cluster's levels: inner axes divide a
// host, or fill it. All of the cluster's devices are used. `graph` is a step with canonical views (lists
// need not be split). Throws Error(Phase::kPlan) on a rule that contradicts its op.
StepPlan plan_step(const ir::Graph& graph, const Cluster& cluster, int32_t micro_batches = 1,
                   int32_t axes = 2);

}  // namespace moai::plan
