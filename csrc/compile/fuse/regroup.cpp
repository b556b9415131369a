#include "compile/fuse/regroup.h"

#include <algorithm>
#include <queue>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "ir/error.h"

namespace moai::compile {

using ir::Graph;
using ir::Node;
using ir::NodeId;
using ir::ValueId;

void add_renamed(const Graph& from, Node node, const std::vector<ValueId>& results, Graph* out,
                 std::vector<ValueId>* renamed) {
  std::vector<ir::Type> types;
  for (const ValueId result : results) types.push_back(from.type(result));
  node.results.clear();
  const NodeId added = out->add_node(std::move(node), std::move(types));
  for (size_t r = 0; r < results.size(); ++r) (*renamed)[results[r]] = out->node(added).results[r];
}

bool comes_back(const Graph& graph, const NodeGroups& groups, int32_t group, NodeId id, NodeId least,
                size_t most) {
  std::vector<NodeId> open;
  std::unordered_set<NodeId> seen;
  const auto add = [&](NodeId of, bool skip_group) {
    for (const ValueId operand : graph.node(of).operands) {
      const NodeId producer = operand == ir::kNone ? ir::kNone : graph.value(operand).producer;
      if (producer == ir::kNone || (skip_group && groups.of[producer] == group)) continue;
      if (seen.insert(producer).second) open.push_back(producer);
    }
  };
  add(id, true);
  while (!open.empty()) {
    if (seen.size() > most) return true;
    const NodeId now = open.back();
    open.pop_back();
    if (groups.of[now] == group) return true;
    if (now < least) continue;
    if (groups.of[now] == ir::kNone) {
      add(now, false);
      continue;
    }
    for (const NodeId member : groups.members[groups.of[now]]) add(member, false);
  }
  return false;
}

Readers::Readers(const Graph& graph) : nodes_(graph.values().size()), is_output_(graph.values().size()) {
  for (size_t n = 0; n < graph.nodes().size(); ++n) {
    for (const ValueId operand : graph.nodes()[n].operands) {
      if (operand != ir::kNone) nodes_[operand].push_back(static_cast<NodeId>(n));
    }
  }
  for (const ValueId output : graph.outputs()) is_output_[output] = true;
}

bool Readers::outside(const NodeGroups& groups, int32_t group, ValueId value) const {
  return is_output_[value] || std::any_of(nodes_[value].begin(), nodes_[value].end(),
                                          [&](NodeId reader) { return groups.of[reader] != group; });
}

Graph regroup(const Graph& graph, const NodeGroups& groups, const AddGroup& add) {
  // A group is told by its first member, and stands where its last one does.
  const auto unit = [&](NodeId id) {
    return groups.of[id] == ir::kNone ? id : groups.members[groups.of[id]].front();
  };
  const auto order = [&](NodeId u) {
    return groups.of[u] == ir::kNone ? u : groups.members[groups.of[u]].back();
  };
  const size_t count = graph.nodes().size();
  std::vector<std::vector<NodeId>> after(count);
  std::vector<int32_t> waits(count, 0);  // by unit: operands whose makers are still to come
  for (size_t n = 0; n < count; ++n) {
    const NodeId to = unit(static_cast<NodeId>(n));
    for (const ValueId operand : graph.nodes()[n].operands) {
      const NodeId producer = operand == ir::kNone ? ir::kNone : graph.value(operand).producer;
      if (producer == ir::kNone || unit(producer) == to) continue;
      after[unit(producer)].push_back(to);
      ++waits[to];
    }
  }
  std::priority_queue<NodeId, std::vector<NodeId>, std::greater<>> ready;  // by where they stand
  std::unordered_map<NodeId, NodeId> unit_at;
  size_t units = 0;
  for (size_t n = 0; n < count; ++n) {
    const auto id = static_cast<NodeId>(n);
    if (unit(id) != id) continue;
    ++units;
    unit_at[order(id)] = id;
    if (waits[id] == 0) ready.push(order(id));
  }
  Graph out;
  std::vector<ValueId> renamed(graph.values().size(), ir::kNone);
  for (const ValueId input : graph.inputs()) renamed[input] = out.add_input(graph.type(input));
  out.set_numbers(graph.numbers());
  size_t done = 0;
  for (; !ready.empty(); ++done) {
    const NodeId u = unit_at.at(ready.top());
    ready.pop();
    if (groups.of[u] == ir::kNone) {
      Node node = graph.node(u);
      for (ValueId& operand : node.operands) operand = operand == ir::kNone ? ir::kNone : renamed[operand];
      add_renamed(graph, std::move(node), graph.node(u).results, &out, &renamed);
    } else {
      add(groups.of[u], &out, &renamed);
    }
    for (const NodeId next : after[u]) {
      if (--waits[next] == 0) ready.push(order(next));
    }
  }
  MOAI_ASSERT(done == units, "fused groups wait for each other");
  std::vector<ValueId> outputs;
  for (const ValueId output : graph.outputs()) outputs.push_back(renamed[output]);
  out.set_outputs(std::move(outputs));
  return out;
}

}  // namespace moai::compile
