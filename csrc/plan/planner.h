#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "plan/layout.h"
#include "plan/pipeline/schedule.h"
#include "plan/timeline.h"

namespace moai::plan {

// An axis that a plan must have: what it splits in forward and backward, and in how many parts.
struct AxisPin {
  std::string name;  // "dp", "sp", "ep", "tp"
  int32_t size = 1;
  uint8_t splits = Axis::kAnyRole;
};

struct SavedPlan;  // plan_file.h

// What the caller has settled; the rest is chosen.
struct Pins {
  std::vector<AxisPin> axes;  // outermost first; together with the stages they take all devices
  std::optional<int32_t> stages;
  std::optional<int32_t> chunks;  // virtual stages on each device
  std::optional<int32_t> micro_batches;
  std::optional<int32_t> zero;
  std::optional<Recompute> recompute;
  std::optional<Order> order;
  double solver_steps = Terms{}.steps;  // see Terms: less where a step waits for its plan
  int32_t solver_branches = Terms{}.branches;
  std::optional<uint64_t> random;          // any valid plan, by this seed: one stage, its batch at once
  std::shared_ptr<const SavedPlan> saved;  // all of the above and every placement; what it lacks is chosen
};

// Reads `dp=8,tp=2,pp=1,micro=4,zero=1,recompute=full`: also sp (sequence), ep (expert), chunks, order
// (gpipe, 1f1b, zero_bubble), random (a seed: any valid plan). Axes of one part are left out. Throws
// Error(Phase::kConfig) naming the word.
Pins parse_pins(const std::string& text);

// What is chosen before the devices of a stage get their parts.
struct OuterChoice {
  int32_t stages = 1;
  int32_t chunks = 1;
  Order order = Order::k1F1B;
  std::vector<int32_t> mesh;    // of each stage: axis sizes, outermost first
  std::vector<uint8_t> splits;  // by axis
  int32_t micro_batches = 1;
  Recompute recompute = Recompute::kNone;
};

// One plan, and what it is predicted to cost.
struct Candidate {
  OuterChoice outer;
  Assignment assignment;
  bool fits = false;
  std::string excess;         // where it does not: what is exceeded, and by which op
  double step_seconds = 0;    // simulated: what can overlap does
  Spent spent;                // of the fullest stage's devices
  double bubble_seconds = 0;  // that they wait for other stages
  double peak_bytes = 0;
  Bytes bytes;                               // at the peak, of the fullest stage
  std::vector<int32_t> stage_begins;         // by virtual stage: its first stretch of forward
  std::shared_ptr<const Schedule> schedule;  // of a pipeline
  std::vector<AxisUse> axes;
  std::string layout;  // in words: "data 8 x tensor 8; states in 64 parts"
};

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
