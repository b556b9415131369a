#pragma once

#include <cstdint>
#include <vector>

#include "compile/local/local_builder.h"
#include "ops/rule.h"

namespace moai::compile {

// Writes an op that goes over rows as a whole (ops::Exchange), where `axes` divide the rows: the steps of its
// definition, with all-reduces of a number a row between them. Low precision is computed in f32.
ir::ValueId exchange_rows(LocalBuilder& builder, const ops::Factor& row, const std::vector<int64_t>& axes,
                          const std::vector<ir::ValueId>& operands, ir::DType dtype);

}  // namespace moai::compile
