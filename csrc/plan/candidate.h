#pragma once

#include <memory>
#include <string>
#include <vector>

#include "plan/layout.h"
#include "plan/pipeline/schedule.h"
#include "plan/timeline.h"

namespace moai::plan {

// What is chosen before the devices of a stage get their parts.
struct OuterChoice {
  int32_t stages = 1;
  int32_t chunks = 1;
  Order order = Order::k1F1B;
  std::vector<int32_t> mesh;    // of each stage: axis sizes, outermost first
  std::vector<uint8_t> splits;  // by axis
  int32_t micro_batches = 1;
  Recompute recompute = Recompute::kNone;
  Offload offload = Offload::kNone;
  Gradients gradients = Gradients::kLate;
  double capacity = 0;

  Rewriting rewriting() const { return {recompute, offload, gradients, capacity}; }
};

// One plan, and what it is predicted to cost.
struct Candidate {
  OuterChoice outer;
  Assignment assignment;
  bool fits = false;
  bool is_refined = false;    // nothing more would be found by asking with all effort
  std::string excess;         // where it does not: what is exceeded, and by which op
  double step_seconds = 0;    // simulated: what can overlap does
  Spent spent;                // of the fullest stage's devices
  double bubble_seconds = 0;  // that they wait for other stages
  Spent handed;               // of `spent`, the messages between stages
  double peak_bytes = 0;
  Bytes bytes;                               // at the peak, of the fullest stage
  std::vector<int32_t> stage_begins;         // by virtual stage: its first stretch of forward
  std::shared_ptr<const Schedule> schedule;  // of a pipeline
  std::vector<AxisUse> axes;
  std::string layout;  // in words: "data 8 x tensor 8; states in 64 parts"

  // What a device takes, nothing overlapping; of a pipeline the mean over stages, and the fullest one's
  // messages to others.
  double sum_seconds() const { return assignment.seconds + handed.communicate; }
};

}  // namespace moai::plan
