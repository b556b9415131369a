#include "plan/moves.h"

#include "plan/options.h"

namespace moai::plan {

const Moves::Known& Moves::known(size_t edge, const Placement& from, const Placement& to, bool merged) {
  const int32_t use = step_.use_of_edge[edge];
  Known& one = known_[use];
  if (one.merged == merged && one.from == from && one.to == to) return one;
  const ir::ValueId value = step_.uses[use].value;
  const ir::Type& type = step_.graph.type(value);
  const LeafSizes& sizes = turn_.value_sizes[value];
  const double seconds = plan::convert_seconds(step_.graph, turn_, value, from, to, mesh_, merged);
  one = {from, to, merged, seconds, seconds > 0 ? local_bytes(type, sizes, to, mesh_) : 0};
  return one;
}

}  // namespace moai::plan
