#pragma once

#include <string>
#include <vector>

#include "ir/symbol.h"

namespace moai::ops {

// What is true of an operator whatever its shapes. An op that no family lists has none of these.
struct Traits {
  // Each element of the result depends on the elements of the operands at the same (broadcast)
  // index alone, so the result may take the memory of an operand of the same type.
  bool pointwise = false;
  // Its boolean operand is a condition, which no kernel converts to the result's type.
  bool conditional = false;
  // May fail on the *values* it is given (an index out of range, a singular matrix). State is
  // written in place only after the last such op of a step, so that a failed step loses nothing.
  bool can_raise = false;
};

// Takes no lock: the table is built once. Names are `aten.add.Tensor`, `aten.mm`.
const Traits& traits(ir::Symbol op);

// The ops that are `pointwise`, without `aten.`.
std::vector<std::string> pointwise_ops();

}  // namespace moai::ops
