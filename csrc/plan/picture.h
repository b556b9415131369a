#pragma once

#include <string>
#include <utility>
#include <vector>

#include "plan/pipeline/schedule.h"
#include "plan/timeline.h"

namespace moai::plan {

// A step as it goes, to be drawn: for each stage's device what it does when, and what lies in its memory.
struct Picture {
  enum class Kind : uint8_t { kForward, kBackward, kWeight, kUpdate };
  struct Span {
    int32_t device = 0;  // of the pipeline; 0 without one
    Kind kind = Kind::kForward;
    int32_t chunk = 0;  // of the device's
    int32_t micro_batch = 0;
    double start = 0, end = 0;  // seconds
  };
  struct Point {
    double seconds = 0, bytes = 0;
  };
  std::vector<Span> spans;
  std::vector<std::vector<Point>> memory;  // by device; holds until the next point
};

// Of a pipeline that ran.
Picture picture_of(const Pipeline& pipeline, const Schedule& schedule, const Simulation& simulation);

// Of one stage: its turns, and within each the bytes as nodes come and go. `live` is live_bytes of the
// assignment.
Picture picture_of(const Step& step, const Timeline& timeline, const Whole& whole, int32_t turns,
                   const std::vector<double>& live);

}  // namespace moai::plan
