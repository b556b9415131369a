#include "compile/local/phases.h"

#include <algorithm>

namespace moai::compile {

bool has_turns(const plan::Frame& turn, ir::ValueId value, const Loop& loop) {
  const Turn any = loop.turn();
  const auto& dims = turn.value_dims[value];
  return std::any_of(dims.begin(), dims.end(), [&](const auto& dim) { return any.leaf_of(dim) >= 0; });
}

bool in_loop(const ir::Graph& graph, const plan::Frame& turn, const Loop& loop, const Phases& phases,
             ir::ValueId value) {
  const auto producer = graph.value(value).producer;
  if (producer == ir::kNone) return has_turns(turn, value, loop);
  return phases.of_node[producer] == Phase::kLoop && !loop.is_ahead(value);
}

Phases find_phases(const ir::Graph& graph, const plan::Frame& turn, const Loop& loop) {
  Phases phases;
  phases.of_node.assign(graph.nodes().size(), Phase::kOnce);
  if (loop.turns == 1) return phases;
  const auto loops = [&](ir::ValueId value) { return in_loop(graph, turn, loop, phases, value); };
  for (size_t n = 0; n < phases.of_node.size(); ++n) {
    const ir::Node& node = graph.node(static_cast<ir::NodeId>(n));
    if (loop.repeats[n]) {
      phases.of_node[n] = Phase::kLoop;
      continue;
    }
    bool late = static_cast<ir::NodeId>(n) >= loop.end;
    for (const auto operand : node.operands) {
      if (operand == ir::kNone) continue;
      const auto producer = graph.value(operand).producer;
      late = late || loops(operand) || (producer != ir::kNone && phases.of_node[producer] == Phase::kAfter);
    }
    if (!late) continue;
    phases.of_node[n] = Phase::kAfter;
    for (const auto operand : node.operands) {
      if (operand != ir::kNone && loops(operand)) phases.carried.push_back(operand);
    }
  }
  for (const auto output : graph.outputs()) {
    if (graph.value(output).producer != ir::kNone && loops(output)) phases.carried.push_back(output);
  }
  return phases;
}

}  // namespace moai::compile
