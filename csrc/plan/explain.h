#pragma once

#include <string>
#include <vector>

#include "plan/breakdown.h"
#include "plan/memory_parts.h"
#include "plan/picture.h"
#include "plan/planner.h"

namespace moai::plan {

// What people are told of the best plan beside its numbers: nothing that runs it needs.
struct Explanation {
  std::vector<TensorGroup> tensors;
  Breakdown breakdown;  // where its time goes
  Picture picture;      // how its step goes
  std::string saved;    // the plan as JSON (plan_file.h)
  // Where none fits: what takes the memory of the one that comes nearest, and nothing of the above.
  std::vector<MemoryPart> memory;
};

// Of a step's best plan, on the cluster that it was planned for.
Explanation explain(const StepPlan& found, const Cluster& cluster);

// What lies on a device at the fullest moment of that plan.
std::vector<MemoryPart> memory_parts(const StepPlan& found, const Cluster& cluster);

}  // namespace moai::plan
