#pragma once

#include <functional>

#include "plan/random_plan.h"

namespace moai::plan {

// The plainest plan of a form: only atoms that `splits` says are split, in the order of the graph each node
// as is cheapest where its operands lie, without looking ahead. Inputs lie in the smallest parts that these
// atoms give or, where `sharded`, that any of their atoms give.
Assignment greedy_assignment(const ir::Graph& graph, const Frame& frame, const Mesh& mesh,
                             const std::function<bool(int32_t atom)>& splits, bool sharded);

}  // namespace moai::plan
