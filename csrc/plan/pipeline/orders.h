#pragma once

#include <cstdint>
#include <vector>

#include "plan/pipeline/schedule.h"

namespace moai::plan {

// Throws Error(Phase::kPlan) that names the stage, unless the pipeline makes sense.
void check(const Pipeline& pipeline);

// In which order each device does its forwards, or its backwards: the same on all devices, see Note
// [Channels]. By position: chunk and micro-batch.
struct Turn {
  int32_t chunk;
  int32_t micro_batch;
};
std::vector<Turn> forward_turns(const Pipeline& pipeline);
std::vector<Turn> backward_turns(const Pipeline& pipeline);

Schedule one_forward_one_backward(const Pipeline& pipeline);

// Each backward of a schedule followed at once by its weight gradients.
Schedule split_weights(const Schedule& schedule);

// See make_schedule.
Schedule zero_bubble(const Pipeline& pipeline, const std::vector<double>& limit_bytes);

}  // namespace moai::plan
