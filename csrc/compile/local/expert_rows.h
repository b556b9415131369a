#pragma once

#include "compile/local/local_op.h"

namespace moai::compile {

// What a node of Note [Rows by expert] (ops/expert_rows.h) is on one device. `result`: the type of its first
// result there.
std::vector<ir::ValueId> expert_rows(LocalBuilder& builder, const LocalOp& op,
                                     std::vector<ir::ValueId> operands, const ir::Type& result);

// Where the runs of equal ids end, of the ids of a part of all groups; i32.
ir::ValueId group_ends(LocalBuilder& builder, ir::ValueId sorted_ids, const Part& groups);

}  // namespace moai::compile
