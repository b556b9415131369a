#pragma once

#include "ir/graph.h"

namespace moai::compile {

// Makes one node of each group of nodes that one kernel can compute (see Note [Fused kernels]):
//
//   %3, %4 = moai.fused("graph(…) {…}", [%0, %1], [n2, n5])
//
// whose first argument is the group as a graph of its own, over these operands and numbers. Nodes change
// their order where a group is later than its first member. Linear in the graph, times a bound.
ir::Graph fuse_groups(const ir::Graph& graph);

// The graph that a fused node stands for; nothing of other nodes.
bool is_fused(const ir::Node& node);
ir::Graph fused_graph(const ir::Node& node);

}  // namespace moai::compile
