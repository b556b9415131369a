#include "compile/local/split_step.h"

#include "plan/roles.h"

namespace moai::compile {

SplitStep::SplitStep(const ir::Graph& g, const plan::Frame& f, const plan::Mesh& m, const plan::Assignment& a,
                     const Loop& l, const Stages& s)
    : graph(g),
      frame(f),
      mesh(m),
      assignment(a),
      loop(l),
      stages(s),
      phases(find_phases(g, f, l)),
      crossings(find_crossings(g, s, l, phases)),
      clocks(s, crossings) {}

plan::Placement SplitStep::wanted(ir::ValueId output) const {
  const ir::ValueId input = plan::updated_input(graph, output);
  if (input != ir::kNone) return produced(input);
  plan::Placement placement = produced(output);
  for (auto& split : placement) {
    if (split.kind != plan::Split::Kind::kShard) split = {};
  }
  return placement;
}

int32_t SplitStep::section(ir::NodeId node) const {
  if (node >= loop.end && loop.turns > 1) return kSections - 1;
  return static_cast<int32_t>(graph.node(node).section);
}

}  // namespace moai::compile
