#include "plan/split_lists.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "ir/rewrite.h"

namespace moai::plan {

namespace {

bool is_elementwise(const std::string& op) {
  return op.rfind("aten._foreach_", 0) == 0 || op.rfind("aten._fused_adam", 0) == 0 ||
         op.rfind("aten._fused_sgd", 0) == 0 || op.rfind("aten._fused_adagrad", 0) == 0;
}

// The length that all its non-empty lists have; 0 where they differ or one holds no tensor.
size_t common_length(const ir::Node& node) {
  size_t length = 0;
  for (const auto& arg : node.args) {
    size_t own = 0;
    if (const auto* list = std::get_if<ir::OperandListRef>(&arg)) {
      own = list->operands.size();
      for (const auto o : list->operands) {
        if (o == ir::kNone) return 0;
      }
    } else if (const auto* numbers = std::get_if<ir::NumberListRef>(&arg)) {
      own = numbers->indices.size();
    }
    if (own == 0) continue;
    if (length != 0 && own != length) return 0;
    length = own;
  }
  return length;
}

// By element of the lists: its results; empty where it cannot be told.
std::vector<std::vector<size_t>> results_of_elements(const ir::Node& node, size_t length) {
  std::vector<size_t> element_of_operand(node.operands.size(), length);
  for (const auto& arg : node.args) {
    const auto* list = std::get_if<ir::OperandListRef>(&arg);
    if (list == nullptr) continue;
    for (size_t i = 0; i < list->operands.size(); ++i) element_of_operand[list->operands[i]] = i;
  }
  std::vector<std::vector<size_t>> results(length);
  for (size_t r = 0; r < node.results.size(); ++r) {
    const int32_t tied = node.tied_operand(r);
    const size_t element = tied == ir::kNone ? r : element_of_operand[tied];
    if (element >= length) return {};
    results[element].push_back(r);
  }
  return results;
}

// Copies of the node's lists would make this quadratic in their length.
ir::Node element_node(const ir::Node& node, size_t i, const std::vector<size_t>& results) {
  ir::Node one;
  one.kind = node.kind;
  one.section = node.section;
  one.op = node.op;
  one.origin = node.origin;
  std::vector<int32_t> old;  // by operand: which it was
  const auto move = [&](int32_t operand) {
    const auto at = std::find(old.begin(), old.end(), operand);
    const auto moved = static_cast<int32_t>(at - old.begin());
    if (at == old.end()) {
      old.push_back(operand);
      one.operands.push_back(node.operands[operand]);
    }
    return moved;
  };
  for (const auto& arg : node.args) {
    if (const auto* list = std::get_if<ir::OperandListRef>(&arg)) {
      one.args.emplace_back(list->operands.empty() ? *list : ir::OperandListRef{{move(list->operands[i])}});
    } else if (const auto* numbers = std::get_if<ir::NumberListRef>(&arg)) {
      one.args.emplace_back(numbers->indices.empty() ? *numbers : ir::NumberListRef{{numbers->indices[i]}});
    } else if (const auto* ref = std::get_if<ir::OperandRef>(&arg)) {
      one.args.emplace_back(ir::OperandRef{move(ref->operand)});
    } else {
      one.args.push_back(arg);
    }
  }
  for (const auto r : results) {
    const int32_t tied = node.tied_operand(r);
    if (tied != ir::kNone) one.tied.push_back(move(tied));
  }
  return one;
}

}  // namespace

ir::Graph split_lists(const ir::Graph& graph) {
  ir::Rewrite rewrite(graph);
  for (size_t id = 0; id < graph.nodes().size(); ++id) {
    const ir::Node& node = graph.nodes()[id];
    const size_t length =
        node.kind == ir::NodeKind::kOp && is_elementwise(node.op.str()) ? common_length(node) : 0;
    const auto elements = length > 1 ? results_of_elements(node, length) : std::vector<std::vector<size_t>>{};
    if (elements.empty()) {
      rewrite.keep(static_cast<ir::NodeId>(id));
      continue;
    }
    for (size_t i = 0; i < length; ++i) {
      ir::Node one = element_node(node, i, elements[i]);
      for (auto& operand : one.operands) operand = rewrite[operand];
      std::vector<ir::Type> types;
      for (const auto r : elements[i]) types.push_back(graph.type(node.results[r]));
      const auto added = rewrite.add(std::move(one), std::move(types));
      for (size_t r = 0; r < added.size(); ++r) rewrite.replace(node.results[elements[i][r]], added[r]);
    }
  }
  return rewrite.finish();
}

}  // namespace moai::plan
