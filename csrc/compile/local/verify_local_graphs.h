#pragma once

#include <memory>
#include <vector>

#include "ir/graph.h"

namespace moai::compile {

// By device of a mesh, in row-major order of coordinates; devices that run the same share one.
using DeviceGraphs = std::vector<std::shared_ptr<const ir::Graph>>;

// Checks that the graphs of all devices (of a mesh of these sizes; row-major) work together: run each in its
// order, every member of a group meets the same collectives in the same order, with parts of the sizes that
// the others expect, and every message is received once, as the type that was sent. So no device waits for
// ever. Each graph must also pass ir::verify.
//
// Throws Error(Phase::kCompile) naming the device and its node. Linear in the nodes of all devices.
void verify(const DeviceGraphs& graphs, const std::vector<int32_t>& mesh);

}  // namespace moai::compile
