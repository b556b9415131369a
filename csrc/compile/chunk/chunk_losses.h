#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "compile/local/verify_local_graphs.h"
#include "ir/graph.h"

namespace moai::compile {

// Whether some log-probabilities have more than `most_bytes`.
bool has_large_loss(const ir::Graph& graph, int64_t most_bytes);

// What became of the losses of a graph whose log-probabilities are too large for one chunk.
struct ChunkReport {
  std::vector<int32_t> losses;       // the origins of those that go in chunks
  std::vector<std::string> why_not;  // for each other one
};

// Lets losses over a vocabulary go over their tokens in chunks, where one of the wide values would have more
// than `most_bytes`: of a chunk it has no more (see Note [Losses in chunks]). `graph` has strided views.
//
// Half-precision sums over chunks are added up in f32. Nodes change their order as in `regroup`.
ir::Graph chunk_losses(const ir::Graph& graph, int64_t most_bytes, ChunkReport* report);

// The same in the graphs of several devices of a mesh, of which each of `groups` has an equal part, one after
// the other. Devices of a group must do it with the same losses, and all must still meet: else the graphs
// stay as they are. The report is of the first device of each group.
DeviceGraphs chunk_losses(const DeviceGraphs& graphs, const std::vector<int32_t>& mesh, int32_t groups,
                          int64_t most_bytes, ChunkReport* report);

}  // namespace moai::compile
