#pragma once

#include <vector>

#include "ir/graph.h"

namespace moai::compile {

// A node whose arguments name the operands in order, then `more`.
ir::Node call_node(const char* op, std::vector<ir::ValueId> operands, const std::vector<ir::Arg>& more);

// What `aten._to_copy` takes besides its operand to change the dtype and nothing else.
std::vector<ir::Arg> to_dtype_args(ir::DType dtype);

}  // namespace moai::compile
