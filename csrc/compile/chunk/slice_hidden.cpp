#include "compile/chunk/slice_hidden.h"

#include <algorithm>
#include <optional>
#include <unordered_map>

#include "compile/fuse/regroup.h"
#include "ir/passes.h"
#include "ir/rewrite.h"

namespace moai::compile {

namespace {

using ir::Dims;
using ir::Graph;
using ir::Node;
using ir::NodeId;
using ir::NodeKind;
using ir::Type;
using ir::ValueId;

// Which rows, and in which dims they are told: row (i, j) is row `offset + i * strides[0] + j * strides[1]`.
struct Rows {
  Dims sizes;
  Dims strides;
  int64_t offset = 0;

  int64_t count() const {
    int64_t rows = 1;
    for (const int64_t size : sizes) rows *= size;
    return rows;
  }
};

// The gradient of all rows, of which some have one and the others nothing.
struct Padded {
  ValueId some = ir::kNone;  // in the new graph: (rows…, columns)
  Dims sizes;                // of the rows that have one
  Dims starts, steps;        // where they lie, by dim
  Dims all;                  // the sizes of all rows
  int64_t columns = 0;
  std::vector<NodeId> slices;  // whose backward padded it
  enum class Look : uint8_t { kAsIs, kRows, kColumnsFirst } look = Look::kAsIs;

  Rows rows() const {
    Rows rows{sizes, ir::contiguous_strides(all), 0};
    for (size_t d = 0; d < sizes.size(); ++d) {
      rows.offset += starts[d] * rows.strides[d];
      rows.strides[d] *= steps[d];
    }
    return rows;
  }
};

// Where logits come from, and what they are converted to on the way.
struct Logits {
  NodeId product = ir::kNone;
  NodeId cast = ir::kNone;
};

class SliceHidden {
 public:
  SliceHidden(const Graph& graph, int64_t most_bytes, const std::vector<int64_t>& numbers,
              const std::vector<bool>& varies, std::vector<std::pair<int32_t, int64_t>>* offsets)
      : graph_(graph),
        readers_(graph),
        rewrite_(graph),
        most_bytes_(most_bytes),
        numbers_(numbers),
        varies_(varies),
        offsets_(offsets) {}

  Graph run() {
    bool changed = false;
    for (size_t n = 0; n < graph_.nodes().size(); ++n) {
      const auto id = static_cast<NodeId>(n);
      source_ = &graph_.node(id);
      const bool is_view = source_->kind == NodeKind::kView;
      if (is_view ? takes_rows_first(*source_) : multiplies_some(*source_)) {
        changed = true;
        continue;
      }
      rewrite_.keep(id);
      note_padded(id);
    }
    return changed ? ir::eliminate_dead_code(rewrite_.finish()) : graph_;
  }

 private:
  std::optional<int64_t> offset_of(const Node& view) {
    const Type& base = graph_.type(view.operands[0]);
    if (const auto fixed = ir::static_offset(view.args[0], graph_.type(view.results[0]), base)) return fixed;
    const int32_t number = std::get<ir::NumberRef>(view.args[0]).index;
    const auto at = static_cast<size_t>(number);
    if (at >= numbers_.size() || (at < varies_.size() && varies_[at])) return std::nullopt;
    number_ = number;
    return numbers_[at];
  }

  // The head's product that a value shows all of and that nothing else does.
  std::optional<Logits> logits_of(ValueId value) const {
    const int64_t columns = graph_.type(value).sizes.back();
    Logits logits;
    for (;;) {
      const Type& type = graph_.type(value);
      const NodeId producer = graph_.value(value).producer;
      if (producer == ir::kNone || readers_.is_output(value) || readers_.of(value).size() != 1 ||
          !type.is_contiguous() || type.sizes.back() != columns)
        return std::nullopt;
      const Node& node = graph_.node(producer);
      const std::string& op = node.op.str();
      if (node.kind == NodeKind::kView) {
        const Type& base = graph_.type(node.operands[0]);
        if (base.dtype != type.dtype || base.numel() != type.numel()) return std::nullopt;
      } else if (op == "aten._to_copy" && logits.cast == ir::kNone) {
        logits.cast = producer;
      } else if (op == "aten.mm" || op == "aten.addmm") {
        logits.product = producer;
        return logits;
      } else {
        return std::nullopt;
      }
      value = node.operands[0];
    }
  }

  // Of a view of some of the logits: which rows.
  std::optional<Rows> rows_of_logits(const Node& view) {
    const Type& all = graph_.type(view.operands[0]);
    const Type& some = graph_.type(view.results[0]);
    if (some.dtype != all.dtype || some.bytes() <= most_bytes_ || some.sizes.size() < 2 ||
        all.sizes.size() < 2 || some.sizes.back() != all.sizes.back() || some.strides.back() != 1 ||
        some.numel() == all.numel())
      return std::nullopt;
    // A view of the view would be told by the strides that it no longer has.
    for (const NodeId reader : readers_.of(view.results[0])) {
      const Node& node = graph_.node(reader);
      if (node.kind != NodeKind::kOp || !graph_.type(node.results[0]).is_contiguous() || !node.tied.empty())
        return std::nullopt;
    }
    number_ = ir::kNone;
    const int64_t columns = all.sizes.back();
    const auto offset = offset_of(view);
    if (!offset || *offset % columns != 0) return std::nullopt;
    Rows rows{some.sizes, some.strides, *offset / columns};
    rows.sizes.pop_back();
    rows.strides.pop_back();
    for (int64_t& stride : rows.strides) {
      if (stride % columns != 0) return std::nullopt;
      stride /= columns;
    }
    return rows;
  }

  ValueId add(const char* op, std::vector<ValueId> operands, std::vector<ir::Arg> args, Type type) {
    Node node;
    node.section = source_->section;
    node.origin = source_->origin;
    node.op = ir::Symbol::intern(op);
    node.operands = std::move(operands);
    node.args = std::move(args);
    return rewrite_.add(std::move(node), std::move(type));
  }

  ValueId view(ValueId value, Type type, int64_t offset) {
    Node node;
    node.kind = NodeKind::kView;
    node.section = source_->section;
    node.origin = source_->origin;
    node.operands = {value};
    node.args = {offset};
    return rewrite_.add(std::move(node), std::move(type));
  }

  // Of a value of the new graph with a row for each token: those of `rows`, as one dim.
  ValueId rows_of(ValueId all, const Rows& rows) {
    const Type type = rewrite_.to().type(all);
    Type some{type.dtype, rows.sizes, rows.strides};
    for (int64_t& stride : some.strides) stride *= type.strides[0];
    some.sizes.push_back(type.sizes[1]);
    some.strides.push_back(type.strides[1]);
    const ValueId seen = view(all, some, rows.offset * type.strides[0]);
    const ValueId dense =
        add("aten.clone", {seen}, {ir::OperandRef{0}, int64_t{0}}, Type::contiguous(type.dtype, some.sizes));
    return view(dense, Type::contiguous(type.dtype, {rows.count(), type.sizes[1]}), 0);
  }

  // The product's operand that has a row for each token; kNone where its arguments are others.
  static int32_t rows_operand(const Node& product) {
    const size_t arg = product.op.str() == "aten.addmm" ? 1 : 0;
    return std::get<ir::OperandRef>(product.args[arg]).operand;
  }

  // Whether the view shows some of a head's logits, which then are all that there is of them.
  bool takes_rows_first(const Node& seen) {
    const auto rows = rows_of_logits(seen);
    const auto logits = rows ? logits_of(seen.operands[0]) : std::nullopt;
    if (!logits) return false;
    if (number_ != ir::kNone) offsets_->emplace_back(number_, numbers_[static_cast<size_t>(number_)]);
    Node product = rewrite_.renamed(logits->product);
    ValueId& hidden = product.operands[rows_operand(product)];
    hidden = rows_of(hidden, *rows);
    Type type = graph_.type(product.results[0]);
    type = Type::contiguous(type.dtype, {rows->count(), type.sizes[1]});
    product.results.clear();
    ValueId made = rewrite_.add(std::move(product), type);
    if (logits->cast != ir::kNone) {
      Node cast = graph_.node(logits->cast);
      cast.operands = {made};
      cast.results.clear();
      type.dtype = graph_.type(seen.results[0]).dtype;
      made = rewrite_.add(std::move(cast), std::move(type));
    }
    const Type& shown = graph_.type(seen.results[0]);
    rewrite_.replace(seen.results[0], view(made, Type::contiguous(shown.dtype, shown.sizes), 0));
    return true;
  }

  void note_padded(NodeId id) {
    const Node& node = graph_.node(id);
    if (node.kind == NodeKind::kView) return note_view(node);
    const std::string& op = node.op.str();
    if (op == "aten.slice_backward") return note_slice(id, node);
    if (op != "aten._to_copy") return;
    const auto known = padded_.find(node.operands[0]);
    if (known == padded_.end() || !graph_.type(node.operands[0]).is_contiguous()) return;
    Padded padded = known->second;
    Node cast = rewrite_.renamed(id);
    cast.operands = {padded.some};
    cast.results.clear();
    Type type = rewrite_.to().type(padded.some);
    type.dtype = graph_.type(node.results[0]).dtype;
    padded.some = rewrite_.add(std::move(cast), std::move(type));
    padded_[node.results[0]] = padded;
  }

  void note_slice(NodeId id, const Node& node) {
    const Type& some = graph_.type(node.operands[0]);
    const Type& all = graph_.type(node.results[0]);
    const auto* dim = std::get_if<int64_t>(&node.args[2]);
    const auto* start = std::get_if<int64_t>(&node.args[3]);
    const auto* step = std::get_if<int64_t>(&node.args[5]);
    if (dim == nullptr || start == nullptr || step == nullptr || all.bytes() <= most_bytes_ ||
        all.sizes.size() < 2 || !all.is_contiguous() || !some.is_contiguous())
      return;
    const auto dims = static_cast<int64_t>(all.sizes.size());
    const auto at = static_cast<size_t>(*dim < 0 ? *dim + dims : *dim);
    if (at + 1 >= all.sizes.size()) return;
    const int64_t first = std::clamp(*start < 0 ? *start + all.sizes[at] : *start, int64_t{0}, all.sizes[at]);
    Padded padded;
    const auto known = padded_.find(node.operands[0]);
    if (known != padded_.end()) {
      padded = known->second;
      if (padded.look != Padded::Look::kAsIs || padded.all.size() + 1 != all.sizes.size()) return;
      padded.starts[at] *= *step;
      padded.steps[at] *= *step;
    } else {
      padded.some = rewrite_[node.operands[0]];
      padded.columns = all.sizes.back();
      padded.sizes.assign(some.sizes.begin(), some.sizes.end() - 1);
      padded.starts.assign(padded.sizes.size(), 0);
      padded.steps.assign(padded.sizes.size(), 1);
      padded.steps[at] = *step;
    }
    padded.starts[at] += first;
    padded.all.assign(all.sizes.begin(), all.sizes.end() - 1);
    padded.slices.push_back(id);
    padded_[node.results[0]] = std::move(padded);
  }

  void note_view(const Node& node) {
    const auto known = padded_.find(node.operands[0]);
    const Type& base = graph_.type(node.operands[0]);
    const Type& seen = graph_.type(node.results[0]);
    if (known == padded_.end() || seen.dtype != base.dtype || seen.numel() != base.numel() ||
        ir::static_offset(node.args[0], seen, base) != 0)
      return;
    Padded padded = known->second;
    const int64_t columns = padded.columns;
    const int64_t rows = seen.numel() / columns;
    if (seen.is_contiguous() && seen.sizes.back() == columns) {
      padded.look = seen.sizes.size() == 2 ? Padded::Look::kRows : Padded::Look::kAsIs;
    } else if (seen.sizes == Dims{columns, rows} && seen.strides == Dims{1, columns}) {
      padded.look = Padded::Look::kColumnsFirst;
    } else if (seen.strides[0] == 1 && seen.sizes[0] == columns) {
      padded.look = Padded::Look::kAsIs;  // on the way to the former
    } else {
      return;
    }
    padded_[node.results[0]] = std::move(padded);
  }

  // A product or a sum over all rows is one over those that are not 0.
  bool multiplies_some(const Node& node) {
    const std::string& op = node.op.str();
    if (node.kind != NodeKind::kOp || (op != "aten.mm" && op != "aten.sum.dim_IntList")) return false;
    const int32_t first = std::get<ir::OperandRef>(node.args[0]).operand;
    const auto known = padded_.find(node.operands[first]);
    if (known == padded_.end()) return false;
    const Padded& padded = known->second;
    const Rows rows = padded.rows();
    const int64_t count = rows.count();
    const ir::DType dtype = rewrite_.to().type(padded.some).dtype;
    const auto gradient = [&] {
      return view(padded.some, Type::contiguous(dtype, {count, padded.columns}), 0);
    };
    Node made = node;
    made.results.clear();
    if (op == "aten.sum.dim_IntList") {
      const auto* over = std::get_if<Dims>(&node.args[1]);
      if (padded.look != Padded::Look::kRows || over == nullptr || *over != Dims{0}) return false;
      made.operands = {gradient()};
      rewrite_.replace(node.results[0], rewrite_.add(std::move(made), graph_.type(node.results[0])));
      return true;
    }
    const int32_t second = std::get<ir::OperandRef>(node.args[1]).operand;
    if (first == second || padded_.count(node.operands[second]) != 0) return false;
    const ValueId other = rewrite_[node.operands[second]];
    if (padded.look == Padded::Look::kColumnsFirst) {
      made.operands[first] = view(padded.some, {dtype, {padded.columns, count}, {1, padded.columns}}, 0);
      made.operands[second] = rows_of(other, rows);
      rewrite_.replace(node.results[0], rewrite_.add(std::move(made), graph_.type(node.results[0])));
      return true;
    }
    if (padded.look != Padded::Look::kRows) return false;
    made.operands[first] = gradient();
    made.operands[second] = other;
    pad(node.results[0],
        rewrite_.add(std::move(made), Type::contiguous(dtype, {count, rewrite_.to().type(other).sizes[1]})),
        padded);
    return true;
  }

  // All rows, of which `some` are not 0.
  void pad(ValueId result, ValueId some, const Padded& padded) {
    const Type& type = graph_.type(result);
    Dims sizes = padded.sizes;
    sizes.push_back(type.sizes[1]);
    ValueId all = view(some, Type::contiguous(type.dtype, std::move(sizes)), 0);
    for (const NodeId id : padded.slices) {
      Node slice = graph_.node(id);
      Dims whole = std::get<Dims>(slice.args[1]);
      whole.back() = type.sizes[1];
      slice.args[1] = whole;
      slice.operands = {all};
      slice.results.clear();
      all = rewrite_.add(std::move(slice), Type::contiguous(type.dtype, std::move(whole)));
    }
    rewrite_.replace(result, view(all, type, 0));
  }

  const Graph& graph_;
  const Readers readers_;
  ir::Rewrite rewrite_;
  const int64_t most_bytes_;
  const std::vector<int64_t>& numbers_;
  const std::vector<bool>& varies_;
  std::vector<std::pair<int32_t, int64_t>>* offsets_;
  const Node* source_ = nullptr;
  int32_t number_ = ir::kNone;  // that the last offset was
  std::unordered_map<ValueId, Padded> padded_;
};

}  // namespace

Graph slice_hidden(const Graph& graph, int64_t most_bytes, const std::vector<int64_t>& numbers,
                   const std::vector<bool>& varies, std::vector<std::pair<int32_t, int64_t>>* offsets) {
  return SliceHidden(graph, most_bytes, numbers, varies, offsets).run();
}

}  // namespace moai::compile
