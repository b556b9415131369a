#include "compile/fuse/part_lists.h"

#include <algorithm>
#include <map>
#include <vector>

#include "compile/fuse/list_ops.h"
#include "plan/split_lists.h"

namespace moai::compile {

namespace {

constexpr size_t kMostParts = 16;

// Whether these values are one of a node's lists, in this order.
bool has_list(const ir::Node& node, const std::vector<ir::ValueId>& values) {
  return std::any_of(node.args.begin(), node.args.end(), [&](const ir::Arg& arg) {
    const auto* list = std::get_if<ir::OperandListRef>(&arg);
    if (list == nullptr || list->operands.size() != values.size()) return false;
    for (size_t i = 0; i < values.size(); ++i) {
      if (list->operands[i] == ir::kNone || node.operands[list->operands[i]] != values[i]) return false;
    }
    return true;
  });
}

}  // namespace

ir::Graph part_lists(const ir::Graph& graph) {
  // By value: the first op on lists that reads it.
  std::vector<ir::NodeId> reader(graph.values().size(), ir::kNone);
  for (size_t n = graph.nodes().size(); n-- > 0;) {
    const ir::Node& node = graph.nodes()[n];
    if (node.kind != ir::NodeKind::kOp || list_op(node.op) == nullptr) continue;
    for (const ir::ValueId operand : node.operands) {
      if (operand != ir::kNone) reader[operand] = static_cast<ir::NodeId>(n);
    }
  }
  return plan::split_lists(graph, [&](ir::NodeId id, size_t length) {
    const ir::Node& node = graph.node(id);
    // One list of results, so that its n-th is of the n-th tensor.
    if (list_op(node.op) == nullptr || node.results.size() != length) return std::vector<int32_t>{};
    std::map<ir::NodeId, int32_t> part_of;  // by reader
    std::vector<int32_t> parts;
    for (const ir::ValueId result : node.results) {
      const auto next = static_cast<int32_t>(part_of.size());
      parts.push_back(part_of.emplace(reader[result], next).first->second);
    }
    const bool is_parted = part_of.size() > 1 && part_of.size() <= kMostParts &&
                           std::all_of(part_of.begin(), part_of.end(), [&](const auto& part) {
                             std::vector<ir::ValueId> results;
                             for (size_t i = 0; i < length; ++i) {
                               if (parts[i] == part.second) results.push_back(node.results[i]);
                             }
                             return part.first == ir::kNone || has_list(graph.node(part.first), results);
                           });
    return is_parted ? parts : std::vector<int32_t>{};
  });
}

}  // namespace moai::compile
