#pragma once

#include <vector>

#include "plan/evaluator.h"
#include "plan/pairs.h"

namespace moai::plan {

// The pairs of stages and mesh that a planner looks at: those that are pinned, or all; where rows of experts
// can be sent, each once more with rows that are.
//
// Throws Error on pins that no pair has: of Phase::kConfig for stages, of Phase::kPlan for a capacity.
std::vector<Pair> pairs_to_try(Evaluator& plans);

}  // namespace moai::plan
