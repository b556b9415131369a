#pragma once

#include <string>
#include <vector>

#include "plan/breakdown.h"
#include "plan/picture.h"
#include "plan/planner.h"

namespace moai::plan {

// What people are told of the best plan beside its numbers: nothing that runs it needs.
struct Explanation {
  std::vector<TensorGroup> tensors;
  Breakdown breakdown;  // where its time goes
  Picture picture;      // how its step goes
  std::string saved;    // the plan as JSON (plan_file.h)
};

// Of a step's best plan, on the cluster that it was planned for; empty where none fits.
Explanation explain(const StepPlan& found, const Cluster& cluster);

}  // namespace moai::plan
