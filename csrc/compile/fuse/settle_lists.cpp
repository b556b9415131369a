#include "compile/fuse/settle_lists.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "compile/fuse/list_ops.h"
#include "ir/passes.h"
#include "ir/rewrite.h"

namespace moai::compile {

namespace {

using ir::Graph;
using ir::Node;
using ir::NodeId;
using ir::NodeKind;
using ir::ValueId;

class Settling {
 public:
  explicit Settling(const Graph& graph) : graph_(graph), rewrite_(graph), is_output_(graph.values().size()) {
    for (const ValueId output : graph.outputs()) is_output_[output] = true;
  }

  Graph run() {
    for (size_t n = 0; n < graph_.nodes().size(); ++n) {
      const auto id = static_cast<NodeId>(n);
      const Node& node = graph_.node(id);
      if (node.kind != NodeKind::kOp || list_op(node.op) == nullptr) {
        rewrite_.keep(id);
      } else {
        settle(id);
      }
    }
    return ir::eliminate_dead_code(rewrite_.finish());
  }

 private:
  void settle(NodeId id) {
    const Node& old = graph_.node(id);
    Node node = rewrite_.renamed(id);
    const std::vector<int32_t> unwritten = unwritten_operands(old);
    const auto is_in = [](const std::vector<int32_t>& some, int32_t one) {
      return std::find(some.begin(), some.end(), one) != some.end();
    };
    for (size_t o = 0; o < old.operands.size(); ++o) {
      const auto operand = static_cast<int32_t>(o);
      if (is_in(unwritten, operand) || !is_in(old.tied, operand))
        node.operands[o] = rewrite_[written(old.operands[o])];
    }
    node.results.clear();
    node.tied.clear();
    std::vector<ValueId> kept;
    std::vector<ir::Type> types;
    for (size_t r = 0; r < old.results.size(); ++r) {
      const int32_t tied = old.tied_operand(r);
      if (is_in(unwritten, tied)) {
        rewrite_.replace(old.results[r], node.operands[tied]);
        continue;
      }
      kept.push_back(old.results[r]);
      types.push_back(graph_.type(old.results[r]));
      if (!old.tied.empty()) node.tied.push_back(tied);
    }
    const auto results = rewrite_.add(std::move(node), std::move(types));
    for (size_t r = 0; r < kept.size(); ++r) rewrite_.replace(kept[r], results[r]);
  }

  // Of a view that shows all that an update has put there: that; else the value itself.
  ValueId written(ValueId value) const {
    if (value == ir::kNone || graph_.value(value).producer == ir::kNone) return value;
    const Node& view = graph_.node(graph_.value(value).producer);
    if (view.kind != NodeKind::kView) return value;
    const ValueId base = view.operands[0];
    if (graph_.value(base).producer == ir::kNone) return value;
    const Node& update = graph_.node(graph_.value(base).producer);
    if (update.kind != NodeKind::kUpdate) return value;
    const ValueId source = update.operands[1];
    const ir::Type& type = graph_.type(source);
    const bool is_whole = type.is_dense() && type.sizes == std::get<ir::Dims>(update.args[0]) &&
                          type.strides == std::get<ir::Dims>(update.args[1]) &&
                          type.bytes() == graph_.type(base).bytes();
    return is_whole && graph_.type(value) == type ? source : value;
  }

  // What a fused optimizer leaves as it was, if all of it can stand for the results.
  std::vector<int32_t> unwritten_operands(const Node& node) const {
    constexpr size_t kGrads = 1, kGradScale = 13;
    const bool is_optimizer = node.op.str().rfind("aten._fused_adam", 0) == 0;
    if (!is_optimizer || !std::holds_alternative<ir::NoneArg>(node.args[kGradScale])) return {};
    const auto& grads = std::get<ir::OperandListRef>(node.args[kGrads]).operands;
    for (size_t r = 0; r < node.results.size(); ++r) {
      const int32_t tied = node.tied_operand(r);
      if (std::find(grads.begin(), grads.end(), tied) == grads.end() || !is_output_[node.results[r]])
        continue;
      if (!may_become_output(node.operands[tied])) return {};
    }
    return grads;
  }

  // Every output is a storage of its own.
  bool may_become_output(ValueId value) const {
    const NodeId producer = graph_.value(value).producer;
    return producer != ir::kNone && graph_.node(producer).kind == NodeKind::kOp && !is_output_[value];
  }

  const Graph& graph_;
  ir::Rewrite rewrite_;
  std::vector<bool> is_output_;  // by value
};

}  // namespace

Graph settle_lists(const Graph& graph) { return Settling(graph).run(); }

}  // namespace moai::compile
