#include "plan/route_rows.h"

#include <algorithm>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "ir/call_node.h"
#include "ir/passes.h"
#include "ir/rewrite.h"
#include "ops/routed_rows.h"
#include "ops/rule.h"

namespace moai::plan {

namespace {

using ir::Node;
using ir::NodeId;
using ir::ValueId;

// What a value has to do with the order that a sort makes.
struct Role {
  enum class Kind : uint8_t {
    kRows,     // its dim `dim` is in that order
    kIds,      // so is it, and it holds the sorted ids
    kOrder,    // holds where rows were before
    kTokens,   // the same, divided by the choices of a token
    kInverse,  // by row before the sort: where it went
    kIsOf,     // by row in that order and expert: whether the one is the other's
  };
  Kind kind = Kind::kRows;
  size_t dim = 0;
};
using Kind = Role::Kind;

// By node: what it becomes.
using Rewritten = std::unordered_map<NodeId, Node>;

const ir::Arg* arg(const Node& node, size_t at) { return at < node.args.size() ? &node.args[at] : nullptr; }

template <typename T>
T arg_or(const Node& node, size_t at, T otherwise) {
  const auto* held = arg(node, at) == nullptr ? nullptr : std::get_if<T>(arg(node, at));
  return held == nullptr ? otherwise : *held;
}

double number(const Node& node, size_t at) {
  return arg_or<double>(node, at, static_cast<double>(arg_or<int64_t>(node, at, -1)));
}

bool is_any(const std::string& op, std::initializer_list<const char*> names) {
  return std::any_of(names.begin(), names.end(), [&](const char* name) { return op == name; });
}

// One sort and what comes of it.
class Route {
 public:
  Route(const ir::Graph& graph, NodeId sort) : graph_(graph), sort_(sort) {}

  // What its nodes become; empty where one stands in the way.
  Rewritten find() {
    if (!begins()) return {};
    for (NodeId n = sort_ + 1; n < static_cast<NodeId>(graph_.nodes().size()); ++n) {
      const Node& node = graph_.node(n);
      const auto is_role = [&](ValueId v) { return roles_.count(v) != 0; };
      if (std::any_of(node.operands.begin(), node.operands.end(), is_role) && !follow(n)) return {};
      find_ends(node);
    }
    const auto& outputs = graph_.outputs();
    if (std::any_of(outputs.begin(), outputs.end(), [&](ValueId v) { return roles_.count(v) != 0; }))
      return {};
    // How many choices a token has is known when all that uses the order was looked at.
    Node sort = made(sort_, ops::routed_rows().sort, {graph_.node(sort_).operands[0]});
    sort.args.emplace_back(choices_ == 0 ? int64_t{1} : choices_);
    rewritten_.emplace(sort_, std::move(sort));
    return std::move(rewritten_);
  }

 private:
  // Whether the sort is by experts that tokens chose, upwards.
  bool begins() {
    const Node& node = graph_.node(sort_);
    const std::string op = node.op.str();
    if (!is_any(op, {"aten.sort", "aten.sort.stable"})) return false;
    const ir::Type& ids = graph_.type(node.operands[0]);
    if (ids.sizes.size() != 1 || ids.dtype != ir::DType::kI64) return false;
    if (arg_or<bool>(node, op == "aten.sort" ? 2 : 3, false)) return false;
    rows_ = ids.sizes[0];
    ValueId from = node.operands[0];
    const auto producer = [&] { return graph_.value(from).producer; };
    while (producer() != ir::kNone && graph_.node(producer()).op.str() == "moai.reshape")
      from = graph_.node(producer()).operands[0];
    if (producer() == ir::kNone) return false;
    const Node& choice = graph_.node(producer());
    const ir::Dims& among = graph_.type(choice.operands[0]).sizes;
    const auto rank = static_cast<int64_t>(among.size());
    const bool is_top = choice.op.str() == "aten.topk" && graph_.value(from).index == 1;
    const bool is_most =
        choice.op.str() == "aten.argmax" && !std::holds_alternative<ir::NoneArg>(choice.args[1]);
    if (!is_top && !is_most) return false;
    const int64_t dim = arg_or<int64_t>(choice, is_top ? 2 : 1, -1);
    if (rank == 0 || (dim != -1 && dim != rank - 1)) return false;
    experts_ = among.back();
    roles_[node.results[0]] = {Kind::kIds, 0};
    roles_[node.results[1]] = {Kind::kOrder, 0};
    return true;
  }

  const Role* role(ValueId value) const {
    const auto it = roles_.find(value);
    return it == roles_.end() ? nullptr : &it->second;
  }
  bool is(ValueId value, Kind kind) const { return role(value) != nullptr && role(value)->kind == kind; }
  bool is_in_order(ValueId value, size_t dim) const {
    const Role* of = role(value);
    return of != nullptr && !points(*of) && of->dim == dim;
  }

  // An op of ours in the place of a node, whose arguments name its operands in order.
  Node made(NodeId at, ir::Symbol op, std::vector<ValueId> operands) const {
    return ir::call_node_like(graph_.node(at), op, std::move(operands));
  }

  bool follow(NodeId n) {
    const Node& node = graph_.node(n);
    const std::string op = node.op.str();
    if (node.kind != ir::NodeKind::kOp || node.results.empty()) return false;
    const ValueId first = node.operands[0];
    if (op == "aten.floor_divide.Scalar" && is(first, Kind::kOrder)) return divide(n);
    if (op == "aten._to_copy" && is(first, Kind::kIds) && counts_exactly(node.results[0]))
      return keep(n, *role(first));
    if (op == "aten._grouped_mm") return multiply(n);
    if (is_any(op, {"aten.index.Tensor", "aten._unsafe_index.Tensor"}) && looks_up_rows(node))
      return look_up(n);
    if (is_any(op, {"aten.index_put", "aten.index_put_", "aten._index_put_impl", "aten._index_put_impl_"}) &&
        looks_up_rows(node))
      return put(n, node.operands[index_of(node)], 2);
    if (op == "aten.index_select" && is_along_rows(node)) return look_up(n);
    if (is_any(op, {"aten.index_add", "aten.index_add_"}) && is_along_rows(node))
      return put(n, at_of(node), 3);
    return treats_rows_alike(n);
  }

  // How many rows each expert has adds up over parts; where they end, a part knows from its own ids.
  void find_ends(const Node& node) {
    if (node.operands.empty() || node.results.empty()) return;
    const std::string op = node.op.str();
    const ValueId first = node.operands[0], result = node.results[0];
    if (role(result) != nullptr || !counts_exactly(result)) return;
    if (op == "aten.histc" && is(first, Kind::kIds) && has_a_bin_for_each(node)) counts_.insert(result);
    // Over rows alone: a number for each expert is left.
    if (op == "aten.sum.dim_IntList" && is(first, Kind::kIsOf) &&
        graph_.type(result).sizes == ir::Dims{graph_.type(first).numel() / rows_})
      counts_.insert(result);
    if (op == "aten._to_copy" && counts_.count(first) != 0) counts_.insert(result);
    if (op == "aten._to_copy" && ends_.count(first) != 0) ends_.insert(result);
    if (op == "aten.cumsum" && counts_.count(first) != 0) ends_.insert(result);
  }

  bool keep(NodeId n, Role as) {
    roles_[graph_.node(n).results[0]] = as;
    return true;
  }

  bool divide(NodeId n) {
    const auto by = arg_or<int64_t>(graph_.node(n), 1, 0);
    if (by < 1 || rows_ % by != 0 || (choices_ != 0 && choices_ != by)) return false;
    choices_ = by;
    return keep(n, {Kind::kTokens, 0});
  }

  // Ids and counts come out of other types rounded.
  bool counts_exactly(ValueId value) const {
    const ir::DType dtype = graph_.type(value).dtype;
    return dtype == ir::DType::kI32 || dtype == ir::DType::kI64 || dtype == ir::DType::kF32 ||
           dtype == ir::DType::kF64;
  }

  bool has_a_bin_for_each(const Node& node) const {
    const auto bins = arg_or<int64_t>(node, 1, 0);
    return bins >= experts_ && number(node, 2) == 0 && number(node, 3) == static_cast<double>(bins - 1);
  }

  bool multiply(NodeId n) {
    const Node& node = graph_.node(n);
    if (node.operands.size() != 3 || ends_.count(node.operands[2]) == 0) return false;
    const ValueId a = node.operands[0], b = node.operands[1];
    const bool a_3d = graph_.type(a).sizes.size() == 3, b_3d = graph_.type(b).sizes.size() == 3;
    const auto is_fine = [&](ValueId x, bool is_3d, size_t dim) {
      return is_3d ? role(x) == nullptr : is_in_order(x, dim);
    };
    if (!is_fine(a, a_3d, b_3d ? 0 : 1) || !is_fine(b, b_3d, a_3d ? 1 : 0)) return false;
    Node grouped = made(n, ops::routed_rows().grouped_mm, {a, b, graph_.node(sort_).results[0]});
    grouped.args.emplace_back(graph_.type(node.operands[2]).sizes[0]);
    rewritten_.emplace(n, std::move(grouped));
    if (a_3d || b_3d) roles_[node.results[0]] = {Kind::kRows, a_3d ? size_t{1} : size_t{0}};
    return true;
  }

  // self[index]: the operand that is the index; kNone where it is not one along the first dim.
  static int32_t index_of(const Node& node) {
    const auto* list = arg(node, 1) == nullptr ? nullptr : std::get_if<ir::OperandListRef>(arg(node, 1));
    if (list == nullptr || list->operands.empty()) return ir::kNone;
    for (size_t i = 1; i < list->operands.size(); ++i) {
      if (list->operands[i] != ir::kNone) return ir::kNone;
    }
    return list->operands[0];
  }

  // (self, dim, index[, source, alpha])
  static ValueId at_of(const Node& node) {
    const auto* at = arg(node, 2) == nullptr ? nullptr : std::get_if<ir::OperandRef>(arg(node, 2));
    return at == nullptr ? ir::kNone : node.operands[at->operand];
  }
  bool is_along_rows(const Node& node) const {
    const Role* of = role(at_of(node));
    const auto dim = arg_or<int64_t>(node, 1, -1);
    const auto rank = static_cast<int64_t>(graph_.type(node.operands[0]).sizes.size());
    return of != nullptr && points(*of) && (dim == 0 || dim == -rank);
  }

  static bool points(const Role& role) {
    return role.kind == Kind::kOrder || role.kind == Kind::kTokens || role.kind == Kind::kInverse;
  }

  // Ids are data as any other: what they look up is not of rows.
  bool looks_up_rows(const Node& node) const {
    const int32_t at = index_of(node);
    const Role* of = at == ir::kNone ? nullptr : role(node.operands[at]);
    return of != nullptr && points(*of);
  }

  // Whether rows of `value` are what an index of this kind points into.
  bool points_into(Kind kind, ValueId value) const {
    const ir::Dims& sizes = graph_.type(value).sizes;
    return !sizes.empty() && sizes[0] == (kind == Kind::kTokens ? rows_ / choices_ : rows_);
  }

  bool look_up(NodeId n) {
    const Node& node = graph_.node(n);
    const ValueId self = node.operands[0];
    const ValueId at = node.op.str() == "aten.index_select" ? at_of(node) : node.operands[index_of(node)];
    const Kind kind = role(at)->kind;
    if (!points_into(kind, self)) return false;
    if (kind == Kind::kInverse) {
      if (!is_in_order(self, 0)) return false;
      rewritten_.emplace(n, made(n, ops::routed_rows().give_back, {self, at}));
      return true;
    }
    if (role(self) != nullptr) return false;
    rewritten_.emplace(n, made(n, ops::routed_rows().take, {self, at}));
    return keep(n, {Kind::kRows, 0});
  }

  // What nothing of the step has been written to yet.
  bool is_filled(ValueId value, bool with_zeros) const {
    const auto producer = graph_.value(value).producer;
    if (producer == ir::kNone) return false;
    const std::string op = graph_.node(producer).op.str();
    if (is_any(op, {"aten.zeros", "aten.zeros_like", "aten.zero_", "aten.new_zeros"})) return true;
    return !with_zeros && is_any(op, {"moai.undefined", "aten.full", "aten.ones", "aten.fill_.Scalar"});
  }

  // 0, 1, … below how much; -1 where it does not.
  int64_t counts_up(ValueId value) const {
    auto producer = graph_.value(value).producer;
    while (producer != ir::kNone && graph_.node(producer).op.str() == "moai.reshape")
      producer = graph_.value(graph_.node(producer).operands[0]).producer;
    if (producer == ir::kNone || graph_.node(producer).op.str() != "aten.arange") return -1;
    return graph_.type(value).dtype == ir::DType::kI64 ? arg_or<int64_t>(graph_.node(producer), 0, -1) : -1;
  }

  // Rows of the argument `values_at` go to those that `at` says: (self, [at], values, adds) or (self, dim,
  // at, values, times).
  bool put(NodeId n, ValueId at, size_t values_at) {
    const Node& node = graph_.node(n);
    const auto* ref =
        arg(node, values_at) == nullptr ? nullptr : std::get_if<ir::OperandRef>(arg(node, values_at));
    if (ref == nullptr) return false;
    const ValueId self = node.operands[0], values = node.operands[ref->operand];
    const Kind kind = role(at)->kind;
    const bool is_scaled = values_at == 3;
    const bool adds = is_scaled || arg_or<bool>(node, 3, false);
    if (role(self) != nullptr || !points_into(kind, self)) return false;
    const bool is_list = graph_.type(self).sizes.size() == 1;
    if (kind == Kind::kOrder && is_list && !adds && counts_up(values) == rows_) {
      rewritten_.emplace(n, made(n, ops::routed_rows().inverse, {at}));
      return keep(n, {Kind::kInverse, 0});
    }
    ir::Dims sizes = graph_.type(self).sizes;
    sizes[0] = rows_;
    if (graph_.type(values).sizes != sizes) return false;
    if (kind == Kind::kInverse) {
      // Each row goes where it went before: what the sort takes there.
      if (role(values) != nullptr || is_scaled || (adds && !is_filled(self, true))) return false;
      rewritten_.emplace(n, made(n, ops::routed_rows().take, {values, graph_.node(sort_).results[1]}));
      return keep(n, {Kind::kRows, 0});
    }
    if (!is_in_order(values, 0) || (kind == Kind::kTokens && !adds)) return false;
    Node put = made(n, ops::routed_rows().put, {self, at, values});
    put.args.emplace_back(adds);
    if (is_scaled && arg(node, 4) != nullptr) put.args.push_back(*arg(node, 4));
    put.tied = node.tied;
    rewritten_.emplace(n, std::move(put));
    return true;
  }

  // Any other op: each of its parts by rows does to its own what the whole does to all, wherever they are.
  bool treats_rows_alike(NodeId n) {
    const Node& node = graph_.node(n);
    const ops::Rule rule = ops::rule_of(graph_, n);
    int32_t rows = -1;  // the factor
    for (size_t o = 0; o < node.operands.size(); ++o) {
      const Role* of = role(node.operands[o]);
      if (of == nullptr) continue;
      if (points(*of)) return false;
      const auto& factors = rule.operands[o][of->dim];
      if (factors.size() != 1 || (rows != -1 && factors[0] != rows)) return false;
      rows = factors[0];
    }
    if (rows < 0 || !rule.splittable(rows)) return false;
    if (!rule.averaged.empty()) return false;  // by how many rows there are, which slots change
    const ops::Factor& factor = rule.factors[rows];
    if (factor.position != ops::Position::kNone || factor.window.over >= 0 || factor.exchanges > 0)
      return false;
    for (size_t o = 0; o < node.operands.size(); ++o) {
      const std::optional<size_t> dim = dim_of(rule.operands[o], rows);
      if (dim && !is_in_order(node.operands[o], *dim) && !is_filled(node.operands[o], false)) return false;
    }
    for (size_t r = 0; r < node.results.size(); ++r) {
      const std::optional<size_t> dim = dim_of(rule.results[r], rows);
      if (!dim) continue;
      if (rule.results[r][*dim].size() != 1) return false;
      roles_[node.results[r]] = {kind_of_result(node), *dim};
    }
    return true;
  }

  // Of an op that treats rows alike.
  Kind kind_of_result(const Node& node) const {
    const std::string op = node.op.str();
    if (op == "moai.reshape" && is(node.operands[0], Kind::kIds)) return Kind::kIds;
    if (op != "aten.eq.Tensor") return Kind::kRows;
    for (const size_t ids : {0, 1}) {
      const ValueId experts = node.operands[1 - ids];
      const int64_t bins = counts_up(experts);
      if (is(node.operands[ids], Kind::kIds) && role(experts) == nullptr && bins >= experts_ &&
          graph_.type(node.results[0]).numel() == rows_ * bins)
        return Kind::kIsOf;
    }
    return Kind::kRows;
  }

  static std::optional<size_t> dim_of(const ops::TensorFactors& tensor, int32_t factor) {
    for (size_t d = 0; d < tensor.size(); ++d) {
      if (std::find(tensor[d].begin(), tensor[d].end(), factor) != tensor[d].end()) return d;
    }
    return std::nullopt;
  }

  const ir::Graph& graph_;
  NodeId sort_;
  int64_t rows_ = 0;     // that are sorted
  int64_t experts_ = 0;  // that the ids tell apart
  int64_t choices_ = 0;  // of a token; 0 while nothing speaks of tokens
  std::unordered_map<ValueId, Role> roles_;
  std::set<ValueId> counts_;  // rows of each expert
  std::set<ValueId> ends_;    // where the rows of each expert end
  Rewritten rewritten_;
};

}  // namespace

ir::Graph route_rows(const ir::Graph& graph) {
  Rewritten rewritten;
  for (NodeId n = 0; n < static_cast<NodeId>(graph.nodes().size()); ++n) {
    if (graph.node(n).op.str().rfind("aten.sort", 0) == 0) rewritten.merge(Route(graph, n).find());
  }
  if (rewritten.empty()) return graph;
  ir::Rewrite rewrite(graph);
  for (NodeId n = 0; n < static_cast<NodeId>(graph.nodes().size()); ++n) {
    const auto it = rewritten.find(n);
    if (it == rewritten.end()) {
      rewrite.keep(n);
      continue;
    }
    for (auto& operand : it->second.operands) operand = rewrite[operand];
    rewrite.keep(n, std::move(it->second));
  }
  return ir::eliminate_dead_code(rewrite.finish());
}

}  // namespace moai::plan
