#include "compile/liveness.h"

namespace moai::compile {

std::vector<int32_t> last_use(const ir::Graph& graph) {
  std::vector<int32_t> last(graph.values().size(), -1);
  const auto end = static_cast<int32_t>(graph.nodes().size());
  for (int32_t id = 0; id < end; ++id) {
    for (const ir::ValueId operand : graph.node(id).operands) last[operand] = id;
  }
  for (const ir::ValueId output : graph.outputs()) last[output] = end;
  return last;
}

}  // namespace moai::compile
