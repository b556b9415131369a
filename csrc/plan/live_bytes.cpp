#include "plan/live_bytes.h"

#include "plan/moves.h"

namespace moai::plan {

std::vector<double> live_bytes(const Step& step, const Frame& turn, const Mesh& mesh, const Terms& terms,
                               const Assignment& assignment) {
  const ir::Graph& graph = step.graph;
  const Lifetimes lifetimes(step, terms);
  const auto nodes = static_cast<ir::NodeId>(graph.nodes().size());
  // By what it is that several nodes or inputs share, and by result.
  std::vector<std::vector<double>> of_nodes(assignment.nodes.distinct()),
      of_inputs(assignment.inputs.distinct());
  const auto bytes = [&](ir::ValueId value) {
    const auto& v = graph.value(value);
    const bool is_input = v.producer == ir::kNone;
    auto& known = is_input ? of_inputs[assignment.inputs.number(v.index)]
                           : of_nodes[assignment.nodes.number(v.producer)];
    const size_t result = is_input ? 0 : static_cast<size_t>(v.index);
    if (known.size() <= result) known.resize(result + 1, -1);
    if (known[result] < 0)
      known[result] =
          local_bytes(graph.type(value), leaf_sizes(turn, value), assignment.placement(graph, value), mesh);
    return known[result];
  };
  std::vector<double> change(static_cast<size_t>(nodes) + 1, 0.0);
  for (size_t v = 0; v < graph.values().size(); ++v) {
    const auto value = static_cast<ir::ValueId>(v);
    const bool is_input = graph.value(value).producer == ir::kNone;
    if (step.base[v] != value && !is_input) continue;
    const double taken = lifetimes.weight(value) * bytes(value);
    change[std::max(lifetimes.first(value), 0)] += taken;
    if (!is_input && step.last_use[v] + 1 < nodes)
      change[std::max(step.last_use[v], graph.value(value).producer) + 1] -= taken;
  }
  std::vector<double> live(static_cast<size_t>(nodes), 0.0);
  double now = 0;
  Moves moves(step, turn, mesh);
  size_t edge = 0;
  for (ir::NodeId n = 0; n < nodes; ++n) {
    live[n] = (now += change[n]) + assignment.nodes[n].scratch_bytes;
    const ir::Node& node = graph.node(n);
    for (size_t o = 0; o < node.operands.size(); ++o)
      live[n] +=
          moves.bytes(edge++, assignment.placement(graph, node.operands[o]), assignment.nodes[n].operands[o]);
  }
  return live;
}

}  // namespace moai::plan
