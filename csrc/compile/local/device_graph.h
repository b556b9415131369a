#pragma once

#include "compile/local/parts.h"
#include "compile/local/split_step.h"
#include "ir/graph.h"

namespace moai::compile {

// The graph of one device of one group. See partition.h.
ir::Graph write_device_graph(const SplitStep& step, Place place, int32_t group);

}  // namespace moai::compile
