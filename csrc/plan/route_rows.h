#pragma once

#include "ir/graph.h"

namespace moai::plan {

// Rewrites mixtures of experts so that their rows can be split as their tokens are: see Note [Routed rows] in
// ops/routed_rows.h. Computes the same outputs from the same inputs and numbers.
//
// All of a sort or nothing: its ids must be `topk`'s or `argmax`'s choices among experts, and what comes of
// it must meet only rows in the same order, in ops that treat each row alike, in sums over rows, in grouped
// products and on the way back; none of it may be an output. Otherwise the sort stays what it was, and lies
// whole. Sorts by any other key and downward ones stay, too.
//
// The graph's views are canonical. A graph that was rewritten stays as it is.
ir::Graph route_rows(const ir::Graph& graph);

}  // namespace moai::plan
