#include "plan/lookups.h"

#include <algorithm>
#include <map>
#include <set>

namespace moai::plan {

namespace {

bool is_index(ir::DType dtype) { return dtype == ir::DType::kI64 || dtype == ir::DType::kI32; }

}  // namespace

Lookups find_lookups(const ir::Graph& graph) {
  std::vector<bool> given(graph.values().size(), false);  // by value: integers that come from an input's
  for (const auto input : graph.inputs()) given[input] = is_index(graph.type(input).dtype);
  std::map<ir::ValueId, std::set<ir::ValueId>> asked;  // by table: its tensors of indices
  for (const auto& node : graph.nodes()) {
    const bool any = std::any_of(node.operands.begin(), node.operands.end(),
                                 [&](ir::ValueId o) { return o != ir::kNone && given[o]; });
    for (const auto result : node.results) given[result] = any && is_index(graph.type(result).dtype);
    if (node.op.str() != "aten.embedding" || node.section == ir::Section::kBackward) continue;
    if (given[node.operands[1]]) asked[node.operands[0]].insert(node.operands[1]);
  }
  Lookups most;
  for (const auto& [table, tensors] : asked) {
    Lookups found;
    int64_t largest = 0;
    for (const auto indices : tensors) {
      const auto& type = graph.type(indices);
      found.tokens += type.numel();
      if (type.numel() <= largest) continue;
      largest = type.numel();
      found.sizes = type.sizes;
    }
    if (found.tokens > most.tokens) most = found;
  }
  return most;
}

}  // namespace moai::plan
