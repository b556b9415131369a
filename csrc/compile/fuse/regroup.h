#pragma once

#include <cstddef>
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

// Whether a way leads from the group out of it and to the node, also by way of other groups: one is there
// when all that it needs is. `least`: no node before it follows from the group. Yes where more than `most`
// nodes would have to be looked at.
bool comes_back(const ir::Graph& graph, const NodeGroups& groups, int32_t group, ir::NodeId id,
                ir::NodeId least, size_t most);

// Who reads the values of a graph, which must outlive it.
class Readers {
 public:
  explicit Readers(const ir::Graph& graph);
  // Whether a node that is not in the group reads the value, or it is an output.
  bool outside(const NodeGroups& groups, int32_t group, ir::ValueId value) const;
  const std::vector<ir::NodeId>& of(ir::ValueId value) const { return nodes_[value]; }
  bool is_output(ir::ValueId value) const { return is_output_[value]; }

 private:
  std::vector<std::vector<ir::NodeId>> nodes_;  // by value
  std::vector<bool> is_output_;                 // by value
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
