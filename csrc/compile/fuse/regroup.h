#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "ir/graph.h"

namespace moai::compile {

// Groups of a graph's nodes, each to become one node.
struct NodeGroups {
  std::vector<int32_t> of;                       // by node: its group, or kNone
  std::vector<std::vector<ir::NodeId>> members;  // by group, in the graph's order; empty: no group
};

// The graph with every group in one place: where its last member stood, or later where what it needs is
// later. `add` adds the group's node to `out` and says in `renamed` (by value of the old graph) what its
// results are there. No group may need itself by way of other nodes.
using AddGroup = std::function<void(int32_t group, ir::Graph* out, std::vector<ir::ValueId>* renamed)>;
ir::Graph regroup(const ir::Graph& graph, const NodeGroups& groups, const AddGroup& add);

// Adds a node whose results are of the types of `results`, values of `from`, and come to stand for them.
void add_renamed(const ir::Graph& from, ir::Node node, const std::vector<ir::ValueId>& results,
                 ir::Graph* out, std::vector<ir::ValueId>* renamed);

}  // namespace moai::compile
