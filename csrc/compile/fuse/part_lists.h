#pragma once

#include "ir/graph.h"

namespace moai::compile {

// The same graph where an op on lists has a node for each op that its tensors go on in as a list of their
// own, so that chains of parameter groups do not meet (see Note [Fused lists]). Ops of many such parts stay
// as they are.
ir::Graph part_lists(const ir::Graph& graph);

}  // namespace moai::compile
