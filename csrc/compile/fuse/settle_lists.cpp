#include "compile/fuse/settle_lists.h"

#include <algorithm>
#include <unordered_map>
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
      if (node.kind == NodeKind::kUpdate) {
        update(id);
      } else if (node.kind == NodeKind::kOp && list_op(node.op) != nullptr) {
        settle(id);
      } else {
        rewrite_.keep(id);
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
        const ValueId stays = written(old.operands[tied]);
        stands_for_[old.results[r]] = stays;
        replace(old.results[r], stays);
        continue;
      }
      kept.push_back(old.results[r]);
      types.push_back(graph_.type(old.results[r]));
      if (!old.tied.empty()) node.tied.push_back(tied);
    }
    const auto results = rewrite_.add(std::move(node), std::move(types));
    for (size_t r = 0; r < kept.size(); ++r) rewrite_.replace(kept[r], results[r]);
  }

  // What replaces all of a tensor does so where the op that made it has written: in the tensor's own memory.
  // What is there already needs no update.
  void update(NodeId id) {
    Node node = rewrite_.renamed(id);
    const Node& old = graph_.node(id);
    const auto replaced = stands_for_.find(old.operands[1]);
    const ValueId source = replaced == stands_for_.end() ? old.operands[1] : replaced->second;
    const ir::Value& made = graph_.value(source);
    if (made.producer == ir::kNone || !ir::replaces_all(graph_, old, source))
      return keep(id, std::move(node));
    const ValueId itself = shown_by(source, old.results[0]);
    if (itself != ir::kNone && (!is_output_[old.results[0]] || may_become_output(itself)))
      return replace(old.results[0], itself);
    const Node& op = graph_.node(made.producer);
    const int32_t tied = op.tied_operand(static_cast<size_t>(made.index));
    const ValueId base = tied == ir::kNone ? ir::kNone : shown_by(op.operands[tied], old.results[0]);
    if (base != ir::kNone) node.operands[0] = rewrite_[base];
    keep(id, std::move(node));
  }

  // What a view shows, where that is of another value's type; else kNone.
  ValueId shown_by(ValueId view, ValueId like) const {
    const NodeId producer = graph_.value(view).producer;
    if (producer == ir::kNone || graph_.node(producer).kind != NodeKind::kView) return ir::kNone;
    const ValueId base = graph_.node(producer).operands[0];
    return graph_.type(base) == graph_.type(like) ? base : ir::kNone;
  }

  void keep(NodeId id, Node node) { rewrite_.keep(id, std::move(node)); }

  // Users of an old value get another old one.
  void replace(ValueId value, ValueId by) {
    is_output_[by] = is_output_[by] || is_output_[value];
    rewrite_.replace(value, rewrite_[by]);
  }

  // The first value that is this one, but for views of all of it and updates of all of it in between.
  ValueId written(ValueId value) const {
    ValueId first = value;
    for (ValueId now = value; now != ir::kNone && graph_.value(now).producer != ir::kNone;) {
      const Node& node = graph_.node(graph_.value(now).producer);
      const bool shows_all = node.kind == NodeKind::kView && graph_.type(now).is_dense() &&
                             graph_.type(node.operands[0]).bytes() == graph_.type(now).bytes();
      const bool puts_all =
          node.kind == NodeKind::kUpdate && ir::replaces_all(graph_, node, node.operands[1]);
      if (!shows_all && !puts_all) break;
      now = node.operands[shows_all ? 0 : 1];
      if (graph_.type(now) == graph_.type(value)) first = now;
    }
    return first;
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
      if (!may_become_output(written(node.operands[tied]))) return {};
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
  std::vector<bool> is_output_;                      // by value
  std::unordered_map<ValueId, ValueId> stands_for_;  // results that are not written: what they are
};

}  // namespace

Graph settle_lists(const Graph& graph) { return Settling(graph).run(); }

}  // namespace moai::compile
