#include "compile/local/partition.h"

#include <unordered_map>
#include <utility>

#include "compile/local/device_graph.h"
#include "compile/local/verify_local_graphs.h"
#include "ir/error.h"

namespace moai::compile {

LocalGraphs partition(const ir::Graph& graph, const plan::Frame& frame, const plan::Mesh& mesh,
                      const plan::Assignment& assignment, const Loop& loop, const Stages& stages) {
  MOAI_ASSERT(assignment.nodes.size() == graph.nodes().size(), "the plan is another graph's");
  MOAI_ASSERT(assignment.inputs.size() == graph.inputs().size(), "the plan is another graph's");
  const SplitStep step{graph, frame, mesh, assignment, loop, stages};
  LocalGraphs out;
  std::unordered_map<std::string, std::shared_ptr<const ir::Graph>> known;
  for (int32_t group = 0; group < stages.groups; ++group) {
    for (auto& place : places_of(mesh.sizes())) {
      auto local = std::make_shared<const ir::Graph>(write_device_graph(step, std::move(place), group));
      out.graphs.push_back(known.emplace(ir::print(*local), std::move(local)).first->second);
    }
  }
  for (const auto output : graph.outputs()) out.outputs.push_back(step.wanted(output));
  verify(out.graphs, mesh_of(mesh, stages));
  return out;
}

LocalGraphs partition(const ir::Graph& graph, const plan::Frame& frame, const plan::Mesh& mesh,
                      const plan::Assignment& assignment) {
  return partition(graph, frame, mesh, assignment, Loop{}, Stages::none(graph, Loop{}));
}

std::vector<int32_t> mesh_of(const plan::Mesh& mesh, const Stages& stages) {
  auto sizes = mesh.sizes();
  if (stages.groups > 1) sizes.insert(sizes.begin(), stages.groups);
  return sizes;
}

}  // namespace moai::compile
