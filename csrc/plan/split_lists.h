#pragma once

#include "ir/graph.h"

namespace moai::plan {

// Gives every element of a list that an op treats element by element (`_foreach_*`, `_fused_*`) a node of
// its own, with lists of one: each tensor can then have its own placement. Computes the same outputs, in the
// same order, from the same inputs and numbers; a list op whose lists differ in length stays as it is.
ir::Graph split_lists(const ir::Graph& graph);

}  // namespace moai::plan
