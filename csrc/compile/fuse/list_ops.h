#pragma once

#include "compile/fuse/step_writer.h"
#include "ir/symbol.h"

namespace moai::compile {

// What an op on lists of tensors (`aten._foreach_*`, `aten._fused_adamw_`, …) does with one element of each.
// Null: it is not fused.
using ListOp = void (*)(StepWriter& w);
ListOp list_op(ir::Symbol op);

}  // namespace moai::compile
