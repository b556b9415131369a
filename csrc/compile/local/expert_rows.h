#pragma once

#include "compile/local/local_op.h"

namespace moai::compile {

// What a node of Note [Rows by expert] (ops/expert_rows.h) is on one device, grouped products left out.
std::vector<ir::ValueId> expert_rows(LocalBuilder& builder, const LocalOp& op,
                                     const std::vector<ir::ValueId>& operands);

// Of a node of these: the experts that are the device's.
Part own_experts(const LocalOp& op);

}  // namespace moai::compile
