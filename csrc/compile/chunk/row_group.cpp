#include "compile/chunk/row_group.h"

#include <algorithm>
#include <string>
#include <utility>

#include "ir/rewrite.h"
#include "ops/traits.h"

namespace moai::compile {

namespace {

using ir::Graph;
using ir::Node;
using ir::NodeId;
using ir::NodeKind;
using ir::Type;
using ir::ValueId;

enum Reduction { kNone = 0, kMean = 1, kSum = 2 };

// As the operator's signatures have them: row dims and one of columns.
constexpr size_t kMostDims = 3;

// `aten.add_.Tensor` is `aten.add.Tensor` on its first operand.
ir::Symbol functional(const Node& node) {
  std::string name = node.op.str();
  const auto overload = name.find('.', name.find('.') + 1);
  const auto end = overload == std::string::npos ? name.size() : overload;
  if (end > 0 && name[end - 1] == '_') name.erase(end - 1, 1);
  return ir::Symbol::intern(name);
}

bool is_pointwise(const Node& node) {
  if (node.results.size() != 1) return false;
  if (node.tied.empty())
    return ops::traits(node.op).pointwise || node.op.str() == "aten._to_copy" ||
           node.op.str() == "aten.clone";
  return node.tied == std::vector<int32_t>{0} && ops::traits(functional(node)).pointwise;
}

bool is_softmax(const std::string& op) { return op == "aten._log_softmax" || op == "aten._softmax"; }
bool is_softmax_backward(const std::string& op) {
  return op == "aten._log_softmax_backward_data" || op == "aten._softmax_backward_data";
}

// Which operand an argument is; kNone where it is none.
int32_t operand_of(const Node& node, size_t arg) {
  const auto* ref = std::get_if<ir::OperandRef>(&node.args[arg]);
  return ref == nullptr ? ir::kNone : ref->operand;
}

bool is_integer(const ir::Arg& arg, int64_t wanted) {
  const auto* integer = std::get_if<int64_t>(&arg);
  return integer != nullptr && *integer == wanted;
}

class Search {
 public:
  Search(const Graph& graph, const Readers& readers) : graph_(graph), readers_(readers) {
    looks_.assign(graph.values().size(), Look::kNarrow);
  }

  std::optional<RowGroup> run(NodeId softmax) {
    const ValueId seed = graph_.node(softmax).results[0];
    const Type& type = graph_.type(seed);
    if (type.sizes.empty() || type.numel() == 0) return std::nullopt;
    group_.columns = type.sizes.back();
    group_.rows = type.numel() / group_.columns;
    if (!is_wide(type) || group_.rows == 1) return std::nullopt;
    mark(seed, Look::kWide);
    while (!open_.empty()) {
      const ValueId value = open_.back();
      open_.pop_back();
      spread(value);
    }
    read_nodes();
    while (drop_impossible()) {
    }
    take_casts();
    const bool has_seed = std::any_of(group_.nodes.begin(), group_.nodes.end(),
                                      [&](const RowNode& read) { return read.id == softmax; });
    return has_seed && saves_memory() ? std::optional(std::move(group_)) : std::nullopt;
  }

 private:
  enum class Look : uint8_t { kNarrow, kWide, kTransposed };

  bool is_wide(const Type& type) const {
    return !type.sizes.empty() && type.sizes.size() <= kMostDims && type.sizes.back() == group_.columns &&
           type.numel() == group_.rows * group_.columns && type.is_contiguous();
  }

  // The memory of a wide value, columns first.
  bool is_transposed(const Type& type) const {
    if (type.sizes.size() < 2 || type.sizes[0] != group_.columns || type.strides[0] != 1) return false;
    return type.numel() == group_.rows * group_.columns &&
           stride_of_rows(type, {true, 1, type.sizes.size()}) == group_.columns;
  }

  Look look(ValueId value) const { return value == ir::kNone ? Look::kNarrow : looks_[value]; }

  void mark(ValueId value, Look look) {
    if (looks_[value] != Look::kNarrow) return;
    looks_[value] = look;
    open_.push_back(value);
  }

  void spread(ValueId value) {
    const NodeId producer = graph_.value(value).producer;
    if (producer != ir::kNone) spread_over(producer);
    for (const NodeId reader : readers_.of(value)) spread_over(reader);
  }

  void spread_over(NodeId id) {
    const Node& node = graph_.node(id);
    const auto mark_wide = [&](ValueId value) {
      if (value != ir::kNone && is_wide(graph_.type(value))) mark(value, Look::kWide);
    };
    if (node.kind == NodeKind::kView) {
      if (look(node.operands[0]) == Look::kNarrow) {
        if (look(node.results[0]) == Look::kWide && is_same_memory(node)) mark_wide(node.operands[0]);
      } else if (is_same_memory(node)) {
        mark_wide(node.results[0]);
        if (is_transposed(graph_.type(node.results[0]))) mark(node.results[0], Look::kTransposed);
      }
      return;
    }
    const std::string& op = node.op.str();
    if (node.kind != NodeKind::kOp) return;
    if (!is_pointwise(node) && !is_softmax(op) && !is_softmax_backward(op) && op != "aten.nll_loss_backward")
      return;
    for (const ValueId operand : node.operands) mark_wide(operand);
    for (const ValueId result : node.results) mark_wide(result);
  }

  bool is_same_memory(const Node& view) const {
    const Type& base = graph_.type(view.operands[0]);
    const Type& seen = graph_.type(view.results[0]);
    return seen.dtype == base.dtype && seen.numel() == base.numel() &&
           ir::static_offset(view.args[0], seen, base) == 0;
  }

  void read_nodes() {
    for (size_t n = 0; n < graph_.nodes().size(); ++n) {
      const Node& node = graph_.nodes()[n];
      const auto is_seen = [this](ValueId value) { return look(value) != Look::kNarrow; };
      if (std::none_of(node.operands.begin(), node.operands.end(), is_seen) &&
          std::none_of(node.results.begin(), node.results.end(), is_seen))
        continue;
      RowNode read;
      read.id = static_cast<NodeId>(n);
      read.args = node.args;
      read.operands.resize(node.operands.size());
      read.results.resize(node.results.size());
      if (read_node(node, &read)) group_.nodes.push_back(std::move(read));
    }
  }

  bool read_node(const Node& node, RowNode* read) const {
    if (node.kind == NodeKind::kUpdate) return false;
    if (node.kind == NodeKind::kView) return read_view(node, read);
    const std::string& op = node.op.str();
    if (op == "aten.mm") return read_product(node, 0, read);
    if (op == "aten.addmm") return look(node.results[0]) == Look::kWide && read_product(node, 1, read);
    if (op == "aten.sum" || op == "aten.sum.dim_IntList") return read_sum(node, read);
    if (op == "aten.nll_loss_forward") return read_loss(node, read);
    if (op == "aten.nll_loss_backward") return read_loss_backward(node, read);
    if (is_softmax(op)) return read_softmax(node, 1, read);
    if (is_softmax_backward(op)) return read_softmax(node, 2, read);
    return is_pointwise(node) && read_pointwise(node, read);
  }

  Given wide() const { return {Given::Kind::kRows, {group_.columns}}; }

  bool take_rows(const Node& node, int32_t operand, size_t first_dim, size_t end_dim, RowNode* read) const {
    const Taken taken{true, first_dim, end_dim};
    read->operands[operand] = taken;
    return stride_of_rows(graph_.type(node.operands[operand]), taken).has_value();
  }

  bool read_view(const Node& node, RowNode* read) const {
    const Look seen = look(node.results[0]);
    if (seen == Look::kNarrow || look(node.operands[0]) == Look::kNarrow) return false;
    const size_t dims = graph_.type(node.operands[0]).sizes.size();
    const bool is_first = look(node.operands[0]) == Look::kWide;
    read->results[0] = {seen == Look::kWide ? Given::Kind::kRows : Given::Kind::kTransposed,
                        {group_.columns}};
    return take_rows(node, 0, is_first ? 0 : 1, is_first ? dims - 1 : dims, read);
  }

  // Each dim is the result's or one, so that the rows are all of it or it has none.
  bool read_pointwise(const Node& node, RowNode* read) const {
    if (look(node.results[0]) != Look::kWide) return false;
    const ir::Dims& sizes = graph_.type(node.results[0]).sizes;
    const size_t row_dims = sizes.size() - 1;
    for (size_t o = 0; o < node.operands.size(); ++o) {
      if (node.operands[o] == ir::kNone) continue;
      const Type& type = graph_.type(node.operands[o]);
      const bool has_rows =
          type.sizes.size() == sizes.size() && std::equal(sizes.begin(), sizes.end() - 1, type.sizes.begin());
      if (has_rows) {
        if (look(node.operands[o]) == Look::kTransposed ||
            !take_rows(node, static_cast<int32_t>(o), 0, row_dims, read))
          return false;
      } else if (!std::all_of(type.sizes.begin(), type.sizes.end() - std::min<int64_t>(1, type.sizes.size()),
                              [](int64_t size) { return size == 1; })) {
        return false;
      }
    }
    read->results[0] = wide();
    return true;
  }

  bool read_softmax(const Node& node, size_t dim_arg, RowNode* read) const {
    const auto dims = static_cast<int64_t>(graph_.type(node.results[0]).sizes.size());
    const auto* dim = std::get_if<int64_t>(&node.args[dim_arg]);
    if (look(node.results[0]) != Look::kWide || dim == nullptr || (*dim != -1 && *dim != dims - 1))
      return false;
    read->args[dim_arg] = int64_t{-1};
    for (size_t o = 0; o < node.operands.size(); ++o) {
      if (look(node.operands[o]) != Look::kWide ||
          !take_rows(node, static_cast<int32_t>(o), 0, static_cast<size_t>(dims) - 1, read))
        return false;
    }
    read->results[0] = wide();
    return true;
  }

  // `at`: the argument that is the first factor.
  bool read_product(const Node& node, size_t at, RowNode* read) const {
    const int32_t first = operand_of(node, at);
    const int32_t second = operand_of(node, at + 1);
    const Type& a = graph_.type(node.operands[first]);
    const Type& b = graph_.type(node.operands[second]);
    const Look left = look(node.operands[first]);
    const Look right = look(node.operands[second]);
    const Type& made = graph_.type(node.results[0]);
    if (first == second || !made.is_contiguous()) return false;
    for (size_t o = 0; o < node.operands.size(); ++o) {
      // A bias of a number for each column.
      const auto operand = static_cast<int32_t>(o);
      if (operand != first && operand != second && graph_.type(node.operands[o]).sizes.size() > 1)
        return false;
    }
    if (right == Look::kNarrow &&
        (left == Look::kWide || (left == Look::kNarrow && look(node.results[0]) == Look::kWide))) {
      read->results[0] = {Given::Kind::kRows, {b.sizes[1]}};
      return take_rows(node, first, 0, 1, read);
    }
    if ((left == Look::kTransposed && right == Look::kNarrow) ||
        (left == Look::kNarrow && right == Look::kWide && a.sizes[1] == group_.rows)) {
      read->results[0].kind = Given::Kind::kSum;
      return take_rows(node, first, 1, 2, read) && take_rows(node, second, 0, 1, read);
    }
    return false;
  }

  bool read_sum(const Node& node, RowNode* read) const {
    if (look(node.operands[0]) != Look::kWide) return false;
    const auto dims = static_cast<int64_t>(graph_.type(node.operands[0]).sizes.size());
    if (!take_rows(node, 0, 0, static_cast<size_t>(dims) - 1, read)) return false;
    read->results[0].kind = Given::Kind::kSum;
    if (node.op.str() == "aten.sum") return true;
    const auto* over = std::get_if<ir::Dims>(&node.args[1]);
    const auto* keeps = std::get_if<bool>(&node.args[2]);
    if (over == nullptr || keeps == nullptr) return false;
    std::vector<bool> is_over(static_cast<size_t>(dims), over->empty());
    for (const int64_t dim : *over) is_over[static_cast<size_t>(dim < 0 ? dim + dims : dim)] = true;
    const auto row_dims = std::count(is_over.begin(), is_over.end() - 1, true);
    if (row_dims == 0 && is_over.back()) {
      read->args[1] = ir::Dims{1};
      read->results[0] = {Given::Kind::kRows, *keeps ? ir::Dims{1} : ir::Dims{}};
      return true;
    }
    // What is kept of several dims that are rows would be one dim of a chunk.
    if (row_dims != dims - 1 || (*keeps && dims > 2)) return false;
    read->args[1] = is_over.back() ? ir::Dims{0, 1} : ir::Dims{0};
    return true;
  }

  bool read_loss(const Node& node, RowNode* read) const {
    const int32_t scores = operand_of(node, 0);
    const int32_t target = operand_of(node, 1);
    const auto* reduction = std::get_if<int64_t>(&node.args[3]);
    if (reduction == nullptr || !std::holds_alternative<int64_t>(node.args[4]) ||
        look(node.operands[scores]) != Look::kWide || graph_.type(node.operands[scores]).sizes.size() != 2)
      return false;
    read->results[0] = {*reduction == kNone   ? Given::Kind::kRows
                        : *reduction == kMean ? Given::Kind::kMean
                                              : Given::Kind::kSum,
                        {}};
    read->results[1].kind = Given::Kind::kSum;
    if (*reduction == kMean) read->args[3] = int64_t{kSum};
    return take_rows(node, scores, 0, 1, read) && take_rows(node, target, 0, 1, read);
  }

  bool read_loss_backward(const Node& node, RowNode* read) const {
    const int32_t scores = operand_of(node, 1);
    if (look(node.results[0]) != Look::kWide || look(node.operands[scores]) != Look::kWide ||
        graph_.type(node.operands[scores]).sizes.size() != 2)
      return false;
    read->results[0] = wide();
    if (is_integer(node.args[4], kNone) && !take_rows(node, operand_of(node, 0), 0, 1, read)) return false;
    return take_rows(node, scores, 0, 1, read) && take_rows(node, operand_of(node, 2), 0, 1, read);
  }

  // A node takes what others of the group give as they give it, or is none of the group.
  bool drop_impossible() {
    const Gives gives(graph_, group_);
    const auto is_possible = [&](const RowNode& read) {
      const Node& node = graph_.node(read.id);
      for (size_t o = 0; o < node.operands.size(); ++o) {
        const Given* given = node.operands[o] == ir::kNone ? nullptr : gives[node.operands[o]];
        if (given == nullptr) {
          // A view of what is not the group's is none of its nodes.
          if (node.kind == NodeKind::kView) return false;
          continue;
        }
        const bool is_of_rows = given->kind == Given::Kind::kRows || given->kind == Given::Kind::kTransposed;
        const bool is_had = is_of_rows || is_total_of_no_mean(node, o);
        if (!is_had || is_of_rows != read.operands[o].by_rows) return false;
      }
      return true;
    };
    const auto end = std::remove_if(group_.nodes.begin(), group_.nodes.end(),
                                    [&](const RowNode& read) { return !is_possible(read); });
    const bool dropped = end != group_.nodes.end();
    group_.nodes.erase(end, group_.nodes.end());
    return dropped;
  }

  // A sum of products in half precision that somebody converts to f32, as autocast does with gradients, need
  // never be rounded.
  void take_casts() {
    std::vector<RowNode> casts;
    for (const RowNode& read : group_.nodes) {
      const Node& node = graph_.node(read.id);
      if (read.results[0].kind != Given::Kind::kSum || node.op.str() != "aten.mm") continue;
      const auto& readers = readers_.of(node.results[0]);
      const auto cast = std::find_if(readers.begin(), readers.end(), [&](NodeId reader) {
        const Node& other = graph_.node(reader);
        const Type& made = graph_.type(node.results[0]);
        return other.op.str() == "aten._to_copy" &&
               (made.dtype == ir::DType::kF16 || made.dtype == ir::DType::kBF16) &&
               graph_.type(other.results[0]) == Type::contiguous(ir::DType::kF32, made.sizes);
      });
      if (cast == readers.end()) continue;
      casts.push_back({*cast, {}, std::vector<Taken>(1), {{Given::Kind::kSum, {}}}, true});
    }
    group_.nodes.insert(group_.nodes.end(), casts.begin(), casts.end());
    std::sort(group_.nodes.begin(), group_.nodes.end(),
              [](const RowNode& a, const RowNode& b) { return a.id < b.id; });
  }

  // The backward of a loss that is no mean is given the total weight and does not use it.
  static bool is_total_of_no_mean(const Node& node, size_t operand) {
    return node.op.str() == "aten.nll_loss_backward" && !is_integer(node.args[4], kMean) &&
           operand_of(node, 6) == static_cast<int32_t>(operand);
  }

  // Whether some wide value of the group's own is read by nobody else.
  bool saves_memory() {
    std::vector<bool> is_member(graph_.nodes().size(), false);
    for (const RowNode& read : group_.nodes) is_member[read.id] = true;
    bool saves = false;
    for (const RowNode& read : group_.nodes) {
      const Node& node = graph_.node(read.id);
      if (node.kind == NodeKind::kView) continue;
      for (const ValueId result : node.results) {
        if (look(result) != Look::kWide) continue;
        const auto& nodes = readers_.of(result);
        saves = saves || (!readers_.is_output(result) &&
                          std::all_of(nodes.begin(), nodes.end(), [&](NodeId n) { return is_member[n]; }));
        group_.widest_bytes = std::max(group_.widest_bytes, graph_.type(result).bytes());
      }
    }
    return saves;
  }

  const Graph& graph_;
  const Readers& readers_;
  RowGroup group_;
  std::vector<Look> looks_;  // by value
  std::vector<ValueId> open_;
};

}  // namespace

std::optional<int64_t> stride_of_rows(const Type& type, const Taken& taken) {
  std::optional<int64_t> stride;
  int64_t outer = 0;  // the stride that the next dim outwards must have
  for (size_t d = taken.end_dim; d-- > taken.first_dim;) {
    if (type.sizes[d] == 1) continue;
    if (!stride) stride = type.strides[d];
    if (outer != 0 && type.strides[d] != outer) return std::nullopt;
    if (outer == 0 && *stride != type.strides[d]) return std::nullopt;
    outer = type.strides[d] * type.sizes[d];
  }
  return stride ? stride : 0;
}

Gives::Gives(const Graph& graph, const RowGroup& group) : graph_(graph) {
  nodes_.assign(graph.nodes().size(), nullptr);
  for (const RowNode& read : group.nodes) nodes_[read.id] = &read;
}

const Given* Gives::operator[](ValueId value) const {
  const NodeId producer = graph_.value(value).producer;
  if (producer == ir::kNone || nodes_[producer] == nullptr) return nullptr;
  return &nodes_[producer]->results[static_cast<size_t>(graph_.value(value).index)];
}

std::optional<RowGroup> find_row_group(const Graph& graph, const Readers& readers, NodeId softmax) {
  return Search(graph, readers).run(softmax);
}

}  // namespace moai::compile
