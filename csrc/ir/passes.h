#pragma once

#include "ir/graph.h"

namespace moai::ir {

// Passes are pure: they take a graph and return a better one that computes the same outputs, in
// the same output order, from the same inputs and numbers (positions are kept, even of unused
// ones). Each runs in time linear in the graph.

// Drops nodes none of whose results is used.
Graph eliminate_dead_code(const Graph& graph);

// Merges nodes that compute the same from the same operands. Never merges across the start of
// backward, nor a node with tied results, nor an op that `ops` calls random.
Graph merge_common_subexpressions(const Graph& graph);

// Replaces a copy that changes nothing (aten.clone or aten._to_copy to the same dtype and layout,
// or update of the whole by the same type) by its source.
Graph remove_needless_copies(const Graph& graph);

// Replaces every strided view by slice / permute / reshape / expand steps (see ir/view.h), and
// leaves as `view` those that have none (overlapping strides). For the planner and for reading; the
// executor runs the strided form.
Graph canonicalise_views(const Graph& graph);

}  // namespace moai::ir
