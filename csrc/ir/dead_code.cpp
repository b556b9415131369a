#include <vector>

#include "ir/passes.h"
#include "ir/rewrite.h"

namespace moai::ir {

Graph eliminate_dead_code(const Graph& graph) {
  return eliminate_dead_code_but(graph, [](const Node& node) { return node.results.empty(); });
}

Graph eliminate_dead_code_but(const Graph& graph, const std::function<bool(const Node&)>& stays) {
  std::vector<bool> used(graph.values().size());
  for (const ValueId output : graph.outputs()) used[output] = true;

  std::vector<bool> live(graph.nodes().size());
  for (size_t id = graph.nodes().size(); id-- > 0;) {
    const Node& node = graph.nodes()[id];
    live[id] = stays(node);
    for (const ValueId result : node.results) live[id] = live[id] || used[result];
    if (!live[id]) continue;
    for (const ValueId operand : node.operands) {
      if (operand != kNone) used[operand] = true;
    }
  }

  Rewrite rewrite(graph);
  for (size_t id = 0; id < graph.nodes().size(); ++id) {
    if (live[id]) rewrite.keep(static_cast<NodeId>(id));
  }
  return rewrite.finish();
}

}  // namespace moai::ir
