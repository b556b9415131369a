#pragma once

#include <memory>
#include <string>
#include <vector>

#include "plan/picture.h"
#include "plan/planner.h"

namespace moai::plan {

// What an assignment takes when its line of stretches is cut into the stages of a pipeline.
struct PipelineCost {
  std::vector<int32_t> stage_begins;  // by virtual stage: its first stretch
  std::shared_ptr<const Schedule> schedule;
  Spent spent;                // of the fullest stage's devices, waiting for other stages left out
  Spent handed;               // of `spent`, the messages between stages
  double bubble_seconds = 0;  // that they wait for other stages
  double peak_bytes = 0;      // of theirs; infinite where there are fewer stretches than stages
  Bytes bytes;
  Picture picture;
  std::string excess;  // why there is no such pipeline; empty where there is
};

// Cuts the stretches into the stages of `outer` so that the slowest takes the least within `memory_bytes`,
// and runs its order. `draws`: the picture too. Where no cut keeps to the memory the one that exceeds it
// least is taken.
PipelineCost pipeline_cost(const std::vector<Stretch>& line, const OuterChoice& outer, const Cluster& cluster,
                           double memory_bytes, bool draws = false);

}  // namespace moai::plan
