#pragma once

#include "ir/graph.h"

namespace moai::compile {

// The same graph where chains of ops on lists can be seen (see Note [Fused lists]):
//
// * a list has what was written to a tensor itself in the place of a view that shows just that (a gradient
//   that was clipped, and lies in other dims than the parameter);
// * a fused optimizer is said to write its gradients, which without a scale it leaves as they are.
ir::Graph settle_lists(const ir::Graph& graph);

}  // namespace moai::compile
