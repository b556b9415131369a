#pragma once

#include "ir/graph.h"

namespace moai::compile {

// The same graph where fused lists that compute the same (see Note [Fused lists]), of which none needs
// another, are one node, with all their tensors.
ir::Graph merge_lists(const ir::Graph& graph);

}  // namespace moai::compile
