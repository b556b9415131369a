#pragma once

#include <vector>

#include "compile/local/loop.h"
#include "compile/local/stages.h"
#include "compile/local/verify_local_graphs.h"
#include "ir/graph.h"
#include "plan/assign.h"
#include "plan/atoms.h"
#include "plan/mesh.h"

namespace moai::compile {

// What each device of a mesh runs.
struct LocalGraphs {
  // On mesh_of. They take the whole graph's inputs, numbers and outputs, each as its placement has it.
  DeviceGraphs graphs;
  std::vector<plan::Placement> outputs;  // replicated or sharded; what updates an input lies where that does
};

// Writes the graph of every device: local sizes and arguments, what an op needs where its part must know its
// place, and the collectives between placements that differ (see Note [Collectives in a graph]). A value is
// brought to one placement once, from wherever it already lies at the least cost. Parts may be uneven.
//
// * `graph` is whole, its views canonical and its lists split; `frame` is its frame.
// * `assignment` gives an option for each node and a placement for each input, on `mesh`, which each stage
// has
//   one of. What lies on other groups is a part of no elements.
//
// A sampler of a part gets one more argument, a list: for each atom of the result (outermost first) the whole
// size, where the part starts and how long it is, for samplers draw by global index: see Note [Random
// numbers].
//
// Throws Error(Phase::kCompile) naming the node where a plan asks for what no collective does or for an op's
// part that has no local form.
LocalGraphs partition(const ir::Graph& graph, const plan::Frame& frame, const plan::Mesh& mesh,
                      const plan::Assignment& assignment, const Loop& loop, const Stages& stages);
// One stage, and the batch at once.
LocalGraphs partition(const ir::Graph& graph, const plan::Frame& frame, const plan::Mesh& mesh,
                      const plan::Assignment& assignment);

// The mesh of all devices: with the groups, where there are several, as its outermost axis.
std::vector<int32_t> mesh_of(const plan::Mesh& mesh, const Stages& stages);

}  // namespace moai::compile
