#include "compile/local/loop.h"

#include <algorithm>

#include "ir/error.h"
#include "plan/options.h"

namespace moai::compile {

Loop Loop::make(const plan::Step& step, int32_t turns) {
  if (turns == 1) return {};
  if (!step.time.obstacle.empty() || step.time.size % turns != 0) {
    throw Error(Phase::kCompile, concat("a batch of ", step.time.size, " cannot be gone through in ", turns,
                                        " turns: ", step.time.obstacle));
  }
  return {turns, step.time.atoms[0], step.time.repeats, step.time.ahead, step.roles.backward_end};
}

int64_t Turn::leaf_of(const plan::Dim& dim) const {
  if (count == 1) return -1;
  const auto it = std::find(dim.begin(), dim.end(), atom);
  return it == dim.end() ? -1 : it - dim.begin();
}

bool is_target_weight(const ir::Graph& graph, ir::ValueId value) {
  const auto& v = graph.value(value);
  return v.index == 1 && v.producer != ir::kNone &&
         graph.node(v.producer).op.str().rfind("aten.nll_loss", 0) == 0;
}

LeafSizes with_turns(const plan::Frame& frame, ir::ValueId value, const Loop& loop,
                     plan::Placement* placement) {
  const Turn turn = loop.turn();
  LeafSizes sizes = plan::leaf_sizes(frame, value);
  for (size_t d = 0; d < sizes.size(); ++d) {
    const int64_t leaf = turn.leaf_of(frame.value_dims[value][d]);
    if (leaf < 0) continue;
    sizes[d].insert(sizes[d].begin() + leaf, turn.count);
    for (auto& split : *placement) {
      const bool moves = split.kind == plan::Split::Kind::kShard && split.dim == static_cast<int16_t>(d);
      if (moves && split.leaf >= leaf) ++split.leaf;
    }
  }
  return sizes;
}

}  // namespace moai::compile
