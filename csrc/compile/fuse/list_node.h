#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "ir/graph.h"

namespace moai::compile {

// An op on lists: its arguments' and results' tensors by list.
struct ListNode {
  using Values = std::vector<ir::ValueId>;

  Values like;                      // how the tensors lie
  std::map<size_t, Values> lists;   // by argument; of one tensor where it is the same for all
  std::vector<Values> results;      // by list
  std::vector<int32_t> tied_lists;  // by list of results: the argument, or kNone

  size_t tensors() const { return like.size(); }
};

// Nothing where the node is none of list_ops.h, or its tensors do not lie alike.
std::optional<ListNode> read_list_node(const ir::Graph& graph, const ir::Node& node);

}  // namespace moai::compile
