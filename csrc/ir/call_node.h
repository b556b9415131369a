#pragma once

#include <vector>

#include "ir/graph.h"

namespace moai::ir {

// A node whose arguments name the operands in order, then `more`.
Node call_node(Symbol op, std::vector<ValueId> operands, const std::vector<Arg>& more = {});
// The same, in the place of `like`: of its section and of the script's line that it came from.
Node call_node_like(const Node& like, Symbol op, std::vector<ValueId> operands,
                    const std::vector<Arg>& more = {});

// What `aten._to_copy` takes besides its operand to change the dtype and nothing else.
std::vector<Arg> to_dtype_args(DType dtype);

}  // namespace moai::ir
