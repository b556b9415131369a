#include "compile/fuse/merge_lists.h"

#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "compile/fuse/lists.h"
#include "compile/fuse/regroup.h"

namespace moai::compile {

namespace {

using ir::Graph;
using ir::Node;
using ir::NodeId;
using ir::ValueId;
using Indices = std::vector<int32_t>;

// Whether a node needs any fused lists from `first` on.
bool needs_lists(const Graph& graph, NodeId id, NodeId first) {
  std::vector<NodeId> open{id};
  std::unordered_set<NodeId> seen;
  while (!open.empty()) {
    const NodeId now = open.back();
    open.pop_back();
    for (const ValueId operand : graph.node(now).operands) {
      const NodeId producer = operand == ir::kNone ? ir::kNone : graph.value(operand).producer;
      if (producer < first || !seen.insert(producer).second) continue;
      if (is_fused_lists(graph.node(producer))) return true;
      open.push_back(producer);
    }
  }
  return false;
}

// One list of several nodes', each of which has one for all its tensors or one for each.
Indices joined(const std::vector<Indices>& lists, const std::vector<size_t>& tensors) {
  bool is_one = true;
  for (const Indices& list : lists) is_one = is_one && list == lists[0] && list.size() == 1;
  if (is_one) return lists[0];
  Indices all;
  for (size_t n = 0; n < lists.size(); ++n) {
    for (size_t i = 0; i < tensors[n]; ++i) all.push_back(lists[n][lists[n].size() == 1 ? 0 : i]);
  }
  return all;
}

// The node of these, and whose values its results are.
Node merged(const Graph& graph, const std::vector<NodeId>& ids, std::vector<ValueId>* results) {
  std::vector<FusedLists> parts;
  std::vector<size_t> tensors;
  Node node = graph.node(ids[0]);
  node.operands.clear();
  node.tied.clear();
  node.args.resize(1);
  std::vector<int32_t> first_operand;
  for (const NodeId id : ids) {
    parts.push_back(fused_lists(graph.node(id)));
    tensors.push_back(parts.back().tensors);
    first_operand.push_back(static_cast<int32_t>(node.operands.size()));
    const auto& operands = graph.node(id).operands;
    node.operands.insert(node.operands.end(), operands.begin(), operands.end());
  }
  const auto moved = [&](size_t part, int32_t operand) {
    return operand == ir::kNone ? ir::kNone : first_operand[part] + operand;
  };
  for (size_t input = 0; input < parts[0].inputs.size(); ++input) {
    std::vector<Indices> lists;
    for (size_t p = 0; p < parts.size(); ++p) {
      Indices list = parts[p].inputs[input];
      for (int32_t& operand : list) operand = moved(p, operand);
      lists.push_back(std::move(list));
    }
    node.args.emplace_back(ir::OperandListRef{joined(lists, tensors)});
  }
  for (size_t number = 0; number < parts[0].numbers.size(); ++number) {
    std::vector<Indices> lists;
    for (const FusedLists& part : parts) lists.push_back(part.numbers[number]);
    node.args.emplace_back(ir::NumberListRef{joined(lists, tensors)});
  }
  for (size_t output = 0; output < parts[0].tied.size(); ++output) {
    for (size_t p = 0; p < parts.size(); ++p) {
      for (size_t i = 0; i < tensors[p]; ++i) {
        node.tied.push_back(moved(p, parts[p].tied[output][i]));
        results->push_back(graph.node(ids[p]).results[output * tensors[p] + i]);
      }
    }
  }
  return node;
}

// Whether the outputs that are written in place are the same.
bool are_tied_alike(const Node& a, const Node& b) {
  const FusedLists of_a = fused_lists(a), of_b = fused_lists(b);
  for (size_t o = 0; o < of_a.tied.size(); ++o) {
    if ((of_a.tied[o][0] == ir::kNone) != (of_b.tied[o][0] == ir::kNone)) return false;
  }
  return true;
}

}  // namespace

Graph merge_lists(const Graph& graph) {
  NodeGroups groups{Indices(graph.nodes().size(), ir::kNone), {}};
  std::unordered_map<std::string, int32_t> group_of;  // by what is computed
  for (size_t n = 0; n < graph.nodes().size(); ++n) {
    const auto id = static_cast<NodeId>(n);
    const Node& node = graph.node(id);
    if (!is_fused_lists(node)) continue;
    const auto next = static_cast<int32_t>(groups.members.size());
    const auto [at, is_new] = group_of.emplace(std::get<std::string>(node.args[0]), next);
    if (!is_new) {
      auto& members = groups.members[at->second];
      if (are_tied_alike(graph.node(members[0]), node) && !needs_lists(graph, id, members[0])) {
        members.push_back(id);
        groups.of[id] = at->second;
        continue;
      }
      at->second = next;
    }
    groups.of[id] = next;
    groups.members.push_back({id});
  }
  return regroup(graph, groups, [&](int32_t group, Graph* out, std::vector<ValueId>* renamed) {
    std::vector<ValueId> results;
    Node node = merged(graph, groups.members[group], &results);
    for (ValueId& operand : node.operands) operand = (*renamed)[operand];
    add_renamed(graph, std::move(node), results, out, renamed);
  });
}

}  // namespace moai::compile
