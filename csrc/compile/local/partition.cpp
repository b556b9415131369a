#include "compile/local/partition.h"

#include <unordered_map>
#include <utility>

#include "compile/local/device_graph.h"
#include "compile/local/verify_local_graphs.h"
#include "ir/error.h"

namespace moai::compile {

LocalGraphs partition(const ir::Graph& graph, const plan::Frame& frame, const plan::Mesh& mesh,
                      const plan::Assignment& assignment, const Loop& loop) {
  MOAI_ASSERT(assignment.nodes.size() == graph.nodes().size(), "the plan is another graph's");
  MOAI_ASSERT(assignment.inputs.size() == graph.inputs().size(), "the plan is another graph's");
  const SplitStep step{graph, frame, mesh, assignment, loop};
  const auto sizes = mesh.sizes();
  LocalGraphs out;
  std::unordered_map<std::string, std::shared_ptr<const ir::Graph>> known;
  for (auto& place : places_of(sizes)) {
    auto local = std::make_shared<const ir::Graph>(write_device_graph(step, std::move(place)));
    out.graphs.push_back(known.emplace(ir::print(*local), std::move(local)).first->second);
  }
  for (const auto output : graph.outputs()) out.outputs.push_back(step.wanted(output));
  verify(out.graphs, sizes);
  return out;
}

}  // namespace moai::compile
