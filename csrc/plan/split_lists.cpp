#include "plan/split_lists.h"

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

// By result: which element of the lists it belongs to; empty where it cannot be told.
std::vector<size_t> elements_of_results(const ir::Node& node, size_t length) {
  std::vector<size_t> element_of_operand(node.operands.size(), length);
  for (const auto& arg : node.args) {
    const auto* list = std::get_if<ir::OperandListRef>(&arg);
    if (list == nullptr) continue;
    for (size_t i = 0; i < list->operands.size(); ++i) element_of_operand[list->operands[i]] = i;
  }
  std::vector<size_t> elements;
  for (size_t r = 0; r < node.results.size(); ++r) {
    const int32_t tied = node.tied_operand(r);
    const size_t element = tied == ir::kNone ? r : element_of_operand[tied];
    if (element >= length) return {};
    elements.push_back(element);
  }
  return elements;
}

ir::Node element_node(const ir::Node& node, size_t i) {
  ir::Node one = node;
  one.operands.clear();
  one.results.clear();
  std::vector<int32_t> moved(node.operands.size(), ir::kNone);
  const auto move = [&](int32_t operand) {
    if (moved[operand] == ir::kNone) {
      moved[operand] = static_cast<int32_t>(one.operands.size());
      one.operands.push_back(node.operands[operand]);
    }
    return moved[operand];
  };
  for (auto& arg : one.args) {
    if (auto* list = std::get_if<ir::OperandListRef>(&arg)) {
      if (!list->operands.empty()) list->operands = {move(list->operands[i])};
    } else if (auto* numbers = std::get_if<ir::NumberListRef>(&arg)) {
      if (!numbers->indices.empty()) numbers->indices = {numbers->indices[i]};
    } else if (auto* ref = std::get_if<ir::OperandRef>(&arg)) {
      ref->operand = move(ref->operand);
    }
  }
  one.tied.clear();
  for (size_t r = 0; r < node.results.size() && !node.tied.empty(); ++r) {
    const int32_t tied = node.tied_operand(r);
    if (tied != ir::kNone && moved[tied] != ir::kNone) one.tied.push_back(moved[tied]);
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
    const auto elements = length > 1 ? elements_of_results(node, length) : std::vector<size_t>{};
    if (elements.empty()) {
      rewrite.keep(static_cast<ir::NodeId>(id));
      continue;
    }
    for (size_t i = 0; i < length; ++i) {
      ir::Node one = element_node(node, i);
      for (auto& operand : one.operands) operand = rewrite[operand];
      std::vector<ir::ValueId> old;
      std::vector<ir::Type> types;
      for (size_t r = 0; r < elements.size(); ++r) {
        if (elements[r] != i) continue;
        old.push_back(node.results[r]);
        types.push_back(graph.type(node.results[r]));
      }
      const auto added = rewrite.add(std::move(one), std::move(types));
      for (size_t r = 0; r < old.size(); ++r) rewrite.replace(old[r], added[r]);
    }
  }
  return rewrite.finish();
}

}  // namespace moai::plan
