#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "ir/graph.h"

namespace moai::plan {

// Gives every element of a list that an op treats element by element (`_foreach_*`, `_fused_*`) a node of
// its own, with lists of one: each tensor can then have its own placement. Computes the same outputs, in the
// same order, from the same inputs and numbers; a list op whose lists differ in length stays as it is.
ir::Graph split_lists(const ir::Graph& graph);

// The same with a node for each part of the lists: `parts(node, length)` numbers the elements' parts from 0
// on; none where the node stays as it is.
using PartsOf = std::function<std::vector<int32_t>(ir::NodeId node, size_t length)>;
ir::Graph split_lists(const ir::Graph& graph, const PartsOf& parts);

}  // namespace moai::plan
