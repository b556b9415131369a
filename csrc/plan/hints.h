#pragma once

#include <vector>

#include "plan/atoms.h"
#include "plan/mesh.h"

namespace moai::plan {

// Note [Hints]
// A script may say of an input along which dim the axes for one kind of parallelism cut it (ir::Hint). That
// binds where the input lies, along axes that may split that role and not the batch as well (but for "data",
// and for experts, whose axis lies within the batch's). For this to mean something the planner tries meshes
// whose axes are for the batch or for what is in a sample, where otherwise each may split anything. Whether a
// mesh has such an axis is still the planner's choice, and one whose axis is longer than the dim ignores the
// hint: a hint never makes a step impossible.

// Those of an input's placements on a mesh that its hints ask for; all where there is none such.
std::vector<Placement> hinted(const ir::Graph& graph, int32_t input, const Mesh& mesh,
                              std::vector<Placement> placements);

// Throws Error(Phase::kPlan) on a hint that no mesh can follow, naming the input's type and the dim: a dim of
// one element, or one that no op of the step splits.
void check_hints(const ir::Graph& graph, const Frame& frame);

}  // namespace moai::plan
