#include "compile/fuse/kernel.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "compile/fuse/step_writer.h"
#include "ir/error.h"

namespace moai::compile {

namespace {

using ir::Dims;
using ir::Graph;
using ir::Node;
using ir::NodeId;
using ir::ValueId;

// How a value's sizes stand to the iteration space.
enum class Form : uint8_t {
  kFull,     // an element each
  kKept,     // an element a row, with dims of one in the columns' places
  kDropped,  // an element a row, without them
  kOther,
};

struct Space {
  Dims sizes;
  size_t row_dims = 0;

  Dims rows() const { return Dims(sizes.begin(), sizes.begin() + static_cast<int64_t>(row_dims)); }
  Dims kept() const {
    Dims kept = rows();
    kept.resize(sizes.size(), 1);
    return kept;
  }
  Form form_of(const Dims& other, bool reduces) const {
    if (other == sizes) return Form::kFull;
    if (!reduces) return Form::kOther;
    if (other == kept()) return Form::kKept;
    if (other == rows()) return Form::kDropped;
    return Form::kOther;
  }
};

bool is_plain(const Node& node) {
  if (node.kind != ir::NodeKind::kOp || node.results.empty()) return false;
  for (size_t r = 0; r < node.results.size(); ++r) {
    if (node.tied_operand(r) != ir::kNone) return false;
  }
  return true;
}

// How many inner dims a node reduces over; nothing where they are not the inner ones.
std::optional<size_t> columns_of(const Graph& graph, const Node& node, const FusedOp& op) {
  using Columns = FusedOp::Columns;
  if (op.columns == Columns::kNone) return 0;
  if (op.columns_arg >= node.args.size() || node.operands.empty()) return std::nullopt;
  const Dims& sizes = graph.type(node.operands[op.operand]).sizes;
  const auto dims = static_cast<int64_t>(sizes.size());
  const ir::Arg& arg = node.args[op.columns_arg];
  if (dims == 0) return std::nullopt;
  if (op.columns == Columns::kDim) {
    const auto* dim = std::get_if<int64_t>(&arg);
    if (dim == nullptr || (*dim != -1 && *dim != dims - 1)) return std::nullopt;
    return 1;
  }
  const auto* list = std::get_if<std::vector<int64_t>>(&arg);
  if (list == nullptr || list->empty() || list->size() > sizes.size()) return std::nullopt;
  if (op.columns == Columns::kSizes) return list->size();
  Dims reduced;
  for (const int64_t dim : *list) reduced.push_back(dim < 0 ? dim + dims : dim);
  std::sort(reduced.begin(), reduced.end());
  for (size_t i = 0; i < reduced.size(); ++i) {
    if (reduced[i] != dims - static_cast<int64_t>(reduced.size() - i)) return std::nullopt;
  }
  return reduced.size();
}

// Strides by dim of `space`, of a tensor that is broadcast to it from the right; nothing where it cannot be.
std::optional<Dims> broadcast_strides(const ir::Type& type, const Dims& space) {
  if (type.sizes.size() > space.size()) return std::nullopt;
  Dims strides(space.size(), 0);
  const size_t more = space.size() - type.sizes.size();
  for (size_t d = 0; d < type.sizes.size(); ++d) {
    if (type.sizes[d] == space[more + d]) {
      strides[more + d] = type.sizes[d] == 1 ? 0 : type.strides[d];
    } else if (type.sizes[d] != 1) {
      return std::nullopt;
    }
  }
  return strides;
}

class Building {
 public:
  Building(const Graph& graph, const Space& space, bool reduces) : graph_(graph), space_(space) {
    kernel_.sizes = space.sizes;
    kernel_.row_dims = reduces ? space.row_dims : 0;
    kernel_.reduces = reduces;
    kernel_.numbers = graph.numbers();
  }

  std::optional<Kernel> run() {
    const bool reduces = kernel_.reduces;
    for (size_t n = 0; n < graph_.nodes().size(); ++n) {
      const Node& node = graph_.nodes()[n];
      const Form form = space_.form_of(graph_.type(node.results[0]).sizes, reduces);
      if (form == Form::kOther) return std::nullopt;
      const FusedOp& op = *fused_op(node.op);
      // What is reduced is a whole row, whatever is left of it.
      const bool reads_rows = op.columns != FusedOp::Columns::kNone;
      for (const ValueId operand : node.operands) {
        if (!admit(operand, reads_rows ? Form::kFull : form)) return std::nullopt;
      }
      StepWriter writer(graph_, static_cast<NodeId>(n), kernel_, step_of_);
      op.write(writer);
      if (writer.refused()) return std::nullopt;
    }
    for (const ValueId output : graph_.outputs()) {
      const ir::Type& type = graph_.type(output);
      const Form form = space_.form_of(type.sizes, reduces);
      const int32_t step = step_of_.at(output);
      const auto strides = strides_of(type, form);
      if (form == Form::kOther || !strides || kernel_.steps[step].of_row != (form != Form::kFull && reduces))
        return std::nullopt;
      kernel_.outputs.push_back({type.dtype, *strides, reduces && kernel_.steps[step].of_row});
      kernel_.results.push_back(step);
    }
    return std::move(kernel_);
  }

 private:
  std::optional<Dims> strides_of(const ir::Type& type, Form form) const {
    if (form != Form::kDropped) return broadcast_strides(type, space_.sizes);
    auto strides = broadcast_strides(type, space_.rows());
    if (strides) strides->resize(space_.sizes.size(), 0);
    return strides;
  }

  // An operand of a node whose results have this form: computed here, or an input, which is loaded.
  bool admit(ValueId value, Form user) {
    const ir::Type& type = graph_.type(value);
    if (step_of_.count(value) != 0) {
      const auto loaded = dropped_.find(value);
      if (loaded != dropped_.end()) return loaded->second == (user == Form::kDropped);
      const Form form = space_.form_of(type.sizes, kernel_.reduces);
      return user == Form::kFull ? form != Form::kDropped : form == user;
    }
    if (!is_computed(type.dtype)) return false;
    const Form aligned = user == Form::kDropped ? Form::kDropped : Form::kFull;
    const auto strides = strides_of(type, aligned);
    if (!strides) return false;
    // Without a reduction there are no rows: a single element is loaded as any other is.
    const bool of_row =
        kernel_.reduces && std::all_of(strides->begin() + static_cast<int64_t>(kernel_.row_dims),
                                       strides->end(), [](int64_t stride) { return stride == 0; });
    if (user != Form::kFull && !of_row) return false;
    Step load;
    load.kind = Step::Kind::kLoad;
    load.dtype = type.dtype;
    load.of_row = of_row;
    load.index = graph_.value(value).index;
    kernel_.inputs.resize(graph_.inputs().size());
    kernel_.inputs[load.index] = {type.dtype, *strides, of_row};
    step_of_[value] = static_cast<int32_t>(kernel_.steps.size());
    kernel_.steps.push_back(std::move(load));
    dropped_[value] = user == Form::kDropped;
    return true;
  }

  const Graph& graph_;
  const Space space_;
  Kernel kernel_;
  std::unordered_map<ValueId, int32_t> step_of_;
  std::unordered_map<ValueId, bool> dropped_;  // inputs: whether they lie as rows without columns
};

}  // namespace

std::optional<Fusable> fusable(const Graph& graph, NodeId id) {
  const Node& node = graph.node(id);
  if (!is_plain(node)) return std::nullopt;
  const FusedOp* op = fused_op(node.op);
  if (op == nullptr) return std::nullopt;
  const auto columns = columns_of(graph, node, *op);
  if (!columns) return std::nullopt;
  for (const ValueId result : node.results) {
    if (!is_computed(graph.type(result).dtype) || !graph.type(result).is_dense()) return std::nullopt;
  }
  Fusable found;
  found.columns = *columns;
  found.sizes =
      *columns == 0 ? graph.type(node.results[0]).sizes : graph.type(node.operands[op->operand]).sizes;
  // A row is one block's: few long rows would leave most of a GPU idle.
  constexpr int64_t kFewRows = 64, kLongRow = 16384;
  const Dims row(found.sizes.end() - static_cast<int64_t>(*columns), found.sizes.end());
  const int64_t columns_in_row = ir::Type::contiguous(ir::DType::kU8, row).numel();
  const int64_t all = ir::Type::contiguous(ir::DType::kU8, found.sizes).numel();
  if (columns_in_row > kLongRow && all / columns_in_row < kFewRows) return std::nullopt;
  if (graph.type(node.results[0]).numel() == 0 ||
      ir::Type::contiguous(ir::DType::kU8, found.sizes).numel() == 0)
    return std::nullopt;
  return found;
}

std::optional<Kernel> build_kernel(const Graph& graph) {
  Space space;
  size_t columns = 0;
  for (size_t n = 0; n < graph.nodes().size(); ++n) {
    const auto part = fusable(graph, static_cast<NodeId>(n));
    if (!part) return std::nullopt;
    if (part->columns == 0) continue;
    if (columns != 0 && (part->sizes != space.sizes || part->columns != columns)) return std::nullopt;
    space.sizes = part->sizes;
    columns = part->columns;
  }
  if (columns == 0) {
    if (graph.nodes().empty()) return std::nullopt;
    space.sizes = graph.type(graph.nodes()[0].results[0]).sizes;
  }
  space.row_dims = space.sizes.size() - columns;
  auto kernel = Building(graph, space, columns != 0).run();
  if (kernel) kernel->inputs.resize(graph.inputs().size());
  return kernel;
}

}  // namespace moai::compile
