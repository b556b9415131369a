#include "compile/chunk/target_weights.h"

#include <utility>
#include <vector>

#include "ir/call_node.h"
#include "ir/rewrite.h"

namespace moai::compile {

namespace {

using ir::Arg;
using ir::DType;
using ir::Graph;
using ir::Node;
using ir::NodeId;
using ir::Type;
using ir::ValueId;

constexpr int64_t kMean = 1;

class Weighing {
 public:
  Weighing(const Graph& graph, int64_t most_bytes)
      : graph_(graph), most_bytes_(most_bytes), rewrite_(graph) {}

  TargetWeights run() {
    std::unordered_map<NodeId, ValueId> of_loss;
    for (size_t n = 0; n < graph_.nodes().size(); ++n) {
      const auto id = static_cast<NodeId>(n);
      const ValueId weight = is_mean(graph_.node(id)) ? weigh(graph_.node(id)) : ir::kNone;
      const NodeId kept = rewrite_.keep(id);
      if (weight == ir::kNone) continue;
      rewrite_.replace(graph_.node(id).results[1], weight);
      of_loss[kept] = weight;
    }
    return {rewrite_.finish(), std::move(of_loss)};
  }

 private:
  bool is_mean(const Node& node) const {
    if (node.op.str() != "aten.nll_loss_forward") return false;
    const auto* reduction = std::get_if<int64_t>(&node.args[3]);
    const Type& scores = graph_.type(operand(node, 0));
    return reduction != nullptr && *reduction == kMean && std::holds_alternative<int64_t>(node.args[4]) &&
           scores.sizes.size() == 2 && scores.bytes() > most_bytes_;
  }

  static ValueId operand(const Node& node, size_t arg) {
    return node.operands[std::get<ir::OperandRef>(node.args[arg]).operand];
  }

  ValueId add(const char* op, std::vector<ValueId> operands, const std::vector<Arg>& more, Type result) {
    Node node = ir::call_node(ir::Symbol::intern(op), std::move(operands), more);
    node.section = source_->section;
    node.origin = source_->origin;
    return rewrite_.add(std::move(node), std::move(result));
  }

  ValueId to_dtype(ValueId value, DType dtype) {
    Type type = rewrite_.to().type(value);
    if (type.dtype == dtype) return value;
    type.dtype = dtype;
    return add("aten._to_copy", {value}, ir::to_dtype_args(dtype), std::move(type));
  }

  ValueId weigh(const Node& loss) {
    source_ = &loss;
    const DType dtype = graph_.type(loss.results[1]).dtype;
    const DType exact = dtype == DType::kF64 ? dtype : DType::kF32;
    const ir::Dims& scores = graph_.type(operand(loss, 0)).sizes;
    const ValueId target = rewrite_[operand(loss, 1)];
    const auto flags = Type::contiguous(DType::kBool, {scores[0]});
    const ValueId ignored = add("aten.eq.Scalar", {target}, {loss.args[4]}, flags);
    ValueId each = ir::kNone;
    if (std::holds_alternative<ir::NoneArg>(loss.args[2])) {
      each = to_dtype(add("aten.logical_not", {ignored}, {}, flags), exact);
    } else {
      // What is no class is for the loss itself to refuse.
      const auto indices = Type::contiguous(rewrite_.to().type(target).dtype, {scores[0]});
      ValueId index = add("aten.masked_fill.Scalar", {target, ignored}, {int64_t{0}}, indices);
      index = add("aten.clamp", {index}, {int64_t{0}, scores[1] - 1}, indices);
      const auto weights = Type::contiguous(dtype, {scores[0]});
      each = add("aten.take", {rewrite_[operand(loss, 2)], index}, {}, weights);
      each = to_dtype(add("aten.masked_fill.Scalar", {each, ignored}, {int64_t{0}}, weights), exact);
    }
    return to_dtype(add("aten.sum", {each}, {ir::NoneArg{}}, Type::contiguous(exact, {})), dtype);
  }

  const Graph& graph_;
  const int64_t most_bytes_;
  ir::Rewrite rewrite_;
  const Node* source_ = nullptr;
};

}  // namespace

TargetWeights weigh_targets(const Graph& graph, int64_t most_bytes) {
  return Weighing(graph, most_bytes).run();
}

}  // namespace moai::compile
