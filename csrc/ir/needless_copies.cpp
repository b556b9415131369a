#include <cstddef>
#include <utility>
#include <vector>

#include "ir/passes.h"
#include "ir/rewrite.h"

namespace moai::ir {

namespace {

class CopyRemover {
 public:
  explicit CopyRemover(const Graph& graph)
      : graph_(graph),
        rewrite_(graph),
        is_output_(graph.values().size()),
        becomes_output_(graph.values().size()) {
    for (const ValueId output : graph.outputs()) is_output_[output] = true;
  }

  Graph run() {
    for (size_t i = 0; i < graph_.nodes().size(); ++i) {
      const auto id = static_cast<NodeId>(i);
      const Node& node = graph_.node(id);
      if (is_whole_copy(node)) {
        replace(id, node.operands[0]);
      } else if (is_whole_update(node)) {
        replace(id, node.operands[1]);
      } else {
        keep(id);
      }
    }
    return rewrite_.finish();
  }

 private:
  bool is_whole_copy(const Node& node) const {
    if (node.kind != NodeKind::kOp || (node.op != clone_ && node.op != to_copy_)) return false;
    return node.operands.size() == 1 && node.results.size() == 1 &&
           graph_.type(node.operands[0]) == graph_.type(node.results[0]);
  }

  bool is_whole_update(const Node& node) const {
    return node.kind == NodeKind::kUpdate &&
           graph_.type(node.operands[1]).dtype == graph_.type(node.operands[0]).dtype &&
           replaces_all(graph_, node, node.operands[1]);
  }

  void keep(NodeId id) {
    rewrite_.keep(id);
    for (const ValueId result : graph_.node(id).results)
      becomes_output_[rewrite_[result]] = is_output_[result];
  }

  void replace(NodeId id, ValueId source) {
    const ValueId result = graph_.node(id).results[0];
    const ValueId by = rewrite_[source];
    const bool same_type = graph_.type(source) == graph_.type(result);
    if (is_output_[result]) {
      if (!same_type || !may_become_output(by)) return keep(id);
      becomes_output_[by] = true;
    }
    rewrite_.replace(result, same_type ? by : view(id, by));
  }

  // Each output is a storage of its own: not an input's, not a part of another, and no two outputs are one.
  bool may_become_output(ValueId value) const {
    const NodeId producer = rewrite_.to().value(value).producer;
    return producer != kNone && rewrite_.to().node(producer).kind != NodeKind::kView &&
           !becomes_output_[value];
  }

  ValueId view(NodeId id, ValueId of) {
    const Node& node = graph_.node(id);
    Node view;
    view.kind = NodeKind::kView;
    view.section = node.section;
    view.operands = {of};
    view.args = {int64_t{0}};
    view.origin = node.origin;
    return rewrite_.add(std::move(view), graph_.type(node.results[0]));
  }

  const Graph& graph_;
  Rewrite rewrite_;
  std::vector<bool> is_output_;       // values of the old graph
  std::vector<bool> becomes_output_;  // values of the new graph, of which there are no more
  const Symbol clone_ = Symbol::intern("aten.clone");
  const Symbol to_copy_ = Symbol::intern("aten._to_copy");
};

}  // namespace

Graph remove_needless_copies(const Graph& graph) { return CopyRemover(graph).run(); }

}  // namespace moai::ir
