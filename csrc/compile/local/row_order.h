#pragma once

#include <utility>

#include "compile/local/local_builder.h"
#include "plan/part.h"

namespace moai::compile {

// The ids in order, and for each where it was. Equal ones stay as they were to each other.
std::pair<ir::ValueId, ir::ValueId> sorted(LocalBuilder& builder, ir::ValueId ids);
// Of an order: for each row where it went.
ir::ValueId inverse_order(LocalBuilder& builder, ir::ValueId order);

// Where the runs of equal sorted ids begin, of ids 0, 1, … below `count`; i64.
ir::ValueId group_begins(LocalBuilder& builder, ir::ValueId sorted_ids, int64_t count);
// Where those of a part of all groups end; i32, as a grouped product takes them.
ir::ValueId group_ends(LocalBuilder& builder, ir::ValueId sorted_ids, const plan::Part& groups);

}  // namespace moai::compile
