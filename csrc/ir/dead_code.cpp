#include <vector>

#include "ir/passes.h"
#include "ir/rewrite.h"

namespace moai::ir {

Graph eliminate_dead_code(const Graph& graph) {
  std::vector<bool> used(graph.values().size());
  for (const ValueId output : graph.outputs()) used[output] = true;

  std::vector<bool> live(graph.nodes().size());
  for (size_t id = graph.nodes().size(); id-- > 0;) {
    const Node& node = graph.nodes()[id];
    live[id] = node.results.empty();  // it is there for its effect: it may raise
    for (const ValueId result : node.results) live[id] = live[id] || used[result];
    if (!live[id]) continue;
    for (const ValueId operand : node.operands) used[operand] = true;
  }

  Rewrite rewrite(graph);
  for (size_t id = 0; id < graph.nodes().size(); ++id) {
    if (live[id]) rewrite.keep(static_cast<NodeId>(id));
  }
  return rewrite.finish();
}

}  // namespace moai::ir
