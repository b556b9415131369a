#pragma once

#include "compile/local/local_builder.h"

namespace moai::compile {

// What an op of Note [Routed rows] is on a part: the aten op that the whole graph had, on the part's own
// rows. `results` are the types of the part's results. A grouped product is none of these: its groups' ends
// are group_ends (row_order.h).
std::vector<ir::ValueId> routed_rows(LocalBuilder& builder, const ir::Node& node,
                                     const std::vector<ir::ValueId>& operands,
                                     const std::vector<ir::Type>& results);

}  // namespace moai::compile
