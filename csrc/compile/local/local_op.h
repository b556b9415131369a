#pragma once

#include <vector>

#include "compile/local/local_builder.h"
#include "compile/local/loop.h"
#include "compile/local/parts.h"
#include "ops/rule.h"
#include "plan/options.h"

namespace moai::compile {

// What an op does on one device: see Note [Local ops] in the implementation.
struct LocalOp {
  const ir::Graph& whole;
  const ir::Node& node;
  const ops::Rule& rule;
  const plan::Frame& frame;
  const std::vector<plan::Dim>& factors;  // atoms of the rule's factors
  const plan::Option& option;
  const Place& place;
  Turn turn;
};

// Writes the op on one device, with operands that lie as its option asks. Returns its results.
//
// Throws Error(Phase::kCompile) naming the node where an option has no local form.
std::vector<ir::ValueId> write_local_op(LocalBuilder& builder, const LocalOp& op,
                                        std::vector<ir::ValueId> operands);

// Of a loss by targets: the weight of its targets on one device, which is its second result, from the targets
// and the classes' weights (kNone: all one) as its option asks for them.
ir::ValueId write_target_weight(LocalBuilder& builder, const LocalOp& op, ir::ValueId target,
                                ir::ValueId weights);

}  // namespace moai::compile
