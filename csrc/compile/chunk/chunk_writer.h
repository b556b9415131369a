#pragma once

#include <vector>

#include "compile/chunk/row_group.h"
#include "compile/chunk/target_weights.h"
#include "ir/graph.h"

namespace moai::compile {

// Writes a group's nodes to `out`, chunk after chunk, and says in `renamed` (by value of the graph that
// `weights` has) what of its results others read is there. A chunk's wide values have `most_bytes` at most,
// or are one row.
void write_chunks(const TargetWeights& weights, const Readers& readers, const RowGroup& group,
                  int64_t most_bytes, ir::Graph* out, std::vector<ir::ValueId>* renamed);

}  // namespace moai::compile
