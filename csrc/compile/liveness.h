#pragma once

#include <cstdint>
#include <vector>

#include "ir/graph.h"

namespace moai::compile {

// Per value: the id of the last node that uses it; the number of nodes for an output of the graph;
// -1 where nobody does.
std::vector<int32_t> last_use(const ir::Graph& graph);

}  // namespace moai::compile
