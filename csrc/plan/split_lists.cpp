#include "plan/split_lists.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <unordered_map>
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

// Of these elements of its lists, and of their results. Copies of the whole lists would make splitting
// quadratic in their length.
ir::Node part_of(const ir::Node& node, const std::vector<size_t>& elements,
                 const std::vector<size_t>& results) {
  ir::Node part;
  part.kind = node.kind;
  part.section = node.section;
  part.op = node.op;
  part.origin = node.origin;
  std::unordered_map<int32_t, int32_t> moved;  // by operand of the whole
  const auto move = [&](int32_t operand) {
    const auto [at, is_new] = moved.emplace(operand, static_cast<int32_t>(part.operands.size()));
    if (is_new) part.operands.push_back(node.operands[operand]);
    return at->second;
  };
  for (const auto& arg : node.args) {
    if (const auto* list = std::get_if<ir::OperandListRef>(&arg)) {
      ir::OperandListRef some;
      for (size_t e = 0; e < elements.size() && !list->operands.empty(); ++e)
        some.operands.push_back(move(list->operands[elements[e]]));
      part.args.emplace_back(std::move(some));
    } else if (const auto* numbers = std::get_if<ir::NumberListRef>(&arg)) {
      ir::NumberListRef some;
      for (size_t e = 0; e < elements.size() && !numbers->indices.empty(); ++e)
        some.indices.push_back(numbers->indices[elements[e]]);
      part.args.emplace_back(std::move(some));
    } else if (const auto* ref = std::get_if<ir::OperandRef>(&arg)) {
      part.args.emplace_back(ir::OperandRef{move(ref->operand)});
    } else {
      part.args.push_back(arg);
    }
  }
  for (const auto r : results) {
    const int32_t tied = node.tied_operand(r);
    if (tied != ir::kNone) part.tied.push_back(move(tied));
  }
  return part;
}

}  // namespace

ir::Graph split_lists(const ir::Graph& graph) {
  return split_lists(graph, [](ir::NodeId, size_t length) {
    std::vector<int32_t> parts(length);
    std::iota(parts.begin(), parts.end(), 0);
    return parts;
  });
}

ir::Graph split_lists(const ir::Graph& graph, const PartsOf& parts) {
  ir::Rewrite rewrite(graph);
  for (size_t id = 0; id < graph.nodes().size(); ++id) {
    const ir::Node& node = graph.nodes()[id];
    const size_t length =
        node.kind == ir::NodeKind::kOp && is_elementwise(node.op.str()) ? common_length(node) : 0;
    const auto results = length > 1 ? results_of_elements(node, length) : std::vector<std::vector<size_t>>{};
    const auto part = results.empty() ? std::vector<int32_t>{} : parts(static_cast<ir::NodeId>(id), length);
    if (part.empty()) {
      rewrite.keep(static_cast<ir::NodeId>(id));
      continue;
    }
    const auto count = static_cast<size_t>(*std::max_element(part.begin(), part.end())) + 1;
    std::vector<std::vector<size_t>> elements(count), left(count);  // by part
    for (size_t i = 0; i < length; ++i) {
      elements[part[i]].push_back(i);
      left[part[i]].insert(left[part[i]].end(), results[i].begin(), results[i].end());
    }
    for (size_t p = 0; p < count; ++p) {
      std::sort(left[p].begin(), left[p].end());
      ir::Node one = part_of(node, elements[p], left[p]);
      for (auto& operand : one.operands) operand = rewrite[operand];
      std::vector<ir::Type> types;
      for (const auto r : left[p]) types.push_back(graph.type(node.results[r]));
      const auto added = rewrite.add(std::move(one), std::move(types));
      for (size_t r = 0; r < added.size(); ++r) rewrite.replace(node.results[left[p][r]], added[r]);
    }
  }
  return rewrite.finish();
}

}  // namespace moai::plan
