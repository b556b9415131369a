#pragma once

#include "ir/graph.h"
#include "ops/rule.h"
#include "plan/repeated.h"

namespace moai::plan {

// By node, its rule. It is made once for all nodes that do the same to tensors of the same types: layers
// repeat. Throws Error(Phase::kPlan) as ops::rule_of does.
Repeated<ops::Rule> rules_of_graph(const ir::Graph& graph);

}  // namespace moai::plan
