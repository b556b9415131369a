#pragma once

#include "ir/graph.h"

namespace moai::plan {

// What a recorded graph with canonical views becomes before it is planned or split: every element of its
// lists (split_lists.h) and every device's routed rows (route_rows.h) can be placed. Computes the same
// outputs from the same inputs and numbers.
ir::Graph prepare(const ir::Graph& graph);

}  // namespace moai::plan
