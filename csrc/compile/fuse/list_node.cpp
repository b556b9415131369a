#include "compile/fuse/list_node.h"

#include <algorithm>
#include <utility>

#include "compile/fuse/list_ops.h"

namespace moai::compile {

namespace {

using ir::Graph;
using ir::Node;
using ir::ValueId;
using Values = ListNode::Values;

class Reading {
 public:
  Reading(const Graph& graph, const Node& node) : graph_(graph), node_(node) {}

  std::optional<ListNode> run() {
    if (node_.kind != ir::NodeKind::kOp || list_op(node_.op) == nullptr || node_.args.empty())
      return std::nullopt;
    const auto* first = std::get_if<ir::OperandListRef>(&node_.args[0]);
    if (first == nullptr || first->operands.empty()) return std::nullopt;
    for (const int32_t operand : first->operands) {
      if (operand == ir::kNone || !graph_.type(node_.operands[operand]).is_dense()) return std::nullopt;
      read_.like.push_back(node_.operands[operand]);
    }
    for (size_t arg = 0; arg < node_.args.size(); ++arg) {
      if (!read_argument(arg)) return std::nullopt;
    }
    if (!read_results()) return std::nullopt;
    return std::move(read_);
  }

 private:
  bool read_argument(size_t arg) {
    Values values;
    if (const auto* numbers = std::get_if<ir::NumberListRef>(&node_.args[arg]))
      return numbers->indices.size() == read_.tensors() && are_of_one_kind(numbers->indices);
    if (const auto* one = std::get_if<ir::OperandRef>(&node_.args[arg])) {
      values.push_back(node_.operands[one->operand]);
    } else if (const auto* list = std::get_if<ir::OperandListRef>(&node_.args[arg])) {
      if (list->operands.empty()) return true;
      if (list->operands.size() != read_.tensors()) return false;
      for (const int32_t operand : list->operands) {
        if (operand == ir::kNone) return false;
        values.push_back(node_.operands[operand]);
      }
    } else {
      return true;
    }
    if (!is_alike(values) && !is_of_numbers(values)) return false;
    read_.lists[arg] = std::move(values);
    return true;
  }

  bool are_of_one_kind(const std::vector<int32_t>& numbers) const {
    return std::all_of(numbers.begin(), numbers.end(), [&](int32_t number) {
      return graph_.numbers()[number] == graph_.numbers()[numbers[0]];
    });
  }
  bool is_of_one_dtype(const Values& values) const {
    return std::all_of(values.begin(), values.end(), [&](ValueId value) {
      return graph_.type(value).dtype == graph_.type(values[0]).dtype;
    });
  }
  bool is_alike(const Values& values) const {
    if (values.size() != read_.tensors() || !is_of_one_dtype(values)) return false;
    for (size_t i = 0; i < values.size(); ++i) {
      const ir::Type& type = graph_.type(values[i]);
      const ir::Type& like = graph_.type(read_.like[i]);
      if (type.sizes != like.sizes || type.strides != like.strides) return false;
    }
    return true;
  }
  bool is_of_numbers(const Values& values) const {
    return is_of_one_dtype(values) && std::all_of(values.begin(), values.end(), [&](ValueId value) {
             return graph_.type(value).sizes.empty();
           });
  }

  bool read_results() {
    const size_t tensors = read_.tensors();
    if (node_.tied.empty()) {
      if (node_.results.size() != tensors || !is_alike(node_.results)) return false;
      read_.results.push_back(node_.results);
      read_.tied_lists.push_back(ir::kNone);
      return true;
    }
    std::map<size_t, Values> written;
    for (size_t r = 0; r < node_.results.size(); ++r) {
      const auto [arg, tensor] = place_of(node_.tied_operand(r));
      if (arg == ir::kNone) return false;
      Values& list = written[static_cast<size_t>(arg)];
      list.resize(tensors, ir::kNone);
      list[tensor] = node_.results[r];
    }
    for (auto& [arg, list] : written) {
      if (std::count(list.begin(), list.end(), ir::kNone) != 0 || !is_alike(list)) return false;
      read_.results.push_back(std::move(list));
      read_.tied_lists.push_back(static_cast<int32_t>(arg));
    }
    return true;
  }

  // In which list an operand is, and where.
  std::pair<int32_t, size_t> place_of(int32_t operand) const {
    for (size_t arg = 0; arg < node_.args.size(); ++arg) {
      const auto* list = std::get_if<ir::OperandListRef>(&node_.args[arg]);
      if (list == nullptr || operand == ir::kNone) continue;
      const auto at = std::find(list->operands.begin(), list->operands.end(), operand);
      if (at != list->operands.end())
        return {static_cast<int32_t>(arg), static_cast<size_t>(at - list->operands.begin())};
    }
    return {ir::kNone, 0};
  }

  const Graph& graph_;
  const Node& node_;
  ListNode read_;
};

}  // namespace

std::optional<ListNode> read_list_node(const Graph& graph, const Node& node) {
  return Reading(graph, node).run();
}

}  // namespace moai::compile
