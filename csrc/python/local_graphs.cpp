#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <set>
#include <unordered_map>

#include "compile/local/buckets.h"
#include "compile/local/partition.h"
#include "compile/local/parts.h"
#include "compile/local/verify_local_graphs.h"
#include "ir/error.h"
#include "plan/greedy_plan.h"
#include "plan/prepare.h"
#include "plan/random_plan.h"
#include "plan/send_rows.h"
#include "python/bindings.h"

namespace py = pybind11;

namespace moai {

namespace {

using plan::Placement;
using plan::Split;

// A step, its frame, and a mesh of devices that are all alike.
struct Whole {
  // `capacity`: of experts that rows are sent to; 0: none are.
  Whole(const std::string& text, const std::vector<int32_t>& mesh_sizes, double capacity = 0)
      : graph(plan::prepare(ir::parse(text))), sizes(mesh_sizes) {
    if (capacity > 0) graph = plan::send_rows(graph, plan::make_frame(graph), capacity);
    ir::verify(graph);
    frame = plan::make_frame(graph);
    cluster = plan::parse_cluster(concat("h100:", compile::places_of(sizes).size(), "x1"));
    mesh = plan::Mesh::make(cluster, sizes);
  }
  ir::Graph graph;
  plan::Frame frame;
  std::vector<int32_t> sizes;
  plan::Cluster cluster;
  plan::Mesh mesh;
};

// Where a value's parts lie: by device and dim, for each atom (whole size, start, length).
py::list parts(const Whole& whole, ir::ValueId value, const Placement& placement) {
  py::list by_device;
  const auto sizes = plan::leaf_sizes(whole.frame, value);
  for (const auto& place : compile::places_of(whole.sizes)) {
    const auto parts = compile::parts_of(place, sizes, placement);
    std::vector<std::vector<std::tuple<int64_t, int64_t, int64_t>>> dims;
    for (size_t i = 0; i < parts.size(); ++i) {
      dims.emplace_back();
      for (size_t k = 0; k < parts[i].size(); ++k)
        dims.back().emplace_back(sizes[i][k], parts[i][k].start, parts[i][k].length);
    }
    by_device.append(dims);
  }
  return by_device;
}

py::dict run(const Whole& whole, const plan::Assignment& assignment) {
  const auto local = compile::partition(whole.graph, whole.frame, whole.mesh, assignment);
  py::dict out;
  std::unordered_map<const ir::Graph*, size_t> index;
  std::vector<std::string> texts;
  std::vector<size_t> of_device;
  for (const auto& graph : local.graphs) {
    const auto it = index.emplace(graph.get(), texts.size());
    if (it.second) texts.push_back(ir::print(*graph));
    of_device.push_back(it.first->second);
  }
  py::list inputs, outputs;
  for (size_t i = 0; i < assignment.inputs.size(); ++i)
    inputs.append(parts(whole, whole.graph.inputs()[i], assignment.inputs[i]));
  for (size_t o = 0; o < local.outputs.size(); ++o)
    outputs.append(parts(whole, whole.graph.outputs()[o], local.outputs[o]));
  size_t split = 0, splittable = 0;
  for (size_t n = 0; n < assignment.nodes.size(); ++n) {
    const bool is_split = plan::is_split(assignment.nodes[n]);
    const bool can_be =
        is_split ||
        plan::options_of(whole.graph, whole.frame, static_cast<ir::NodeId>(n), whole.mesh).size() > 1;
    split += is_split;
    splittable += can_be;
  }
  out["graphs"] = texts;
  out["of_device"] = of_device;
  out["inputs"] = inputs;
  out["outputs"] = outputs;
  out["mesh"] = whole.sizes;
  // Of the nodes that there is a way to split.
  out["split_share"] = splittable == 0 ? 1.0 : static_cast<double>(split) / static_cast<double>(splittable);
  return out;
}

}  // namespace

void bind_local_graphs(py::module_& m) {
  m.def(
      "random_local_graphs",
      [](const std::string& text, const std::vector<int32_t>& mesh, uint64_t seed, plan::SplitCounts counts,
         double capacity) {
        const Whole whole(text, mesh, capacity);
        const auto plan = plan::random_assignment(whole.graph, whole.frame, whole.mesh, seed, &counts);
        return py::make_tuple(run(whole, plan), counts);
      },
      py::arg("text"), py::arg("mesh"), py::arg("seed"), py::arg("counts"), py::arg("capacity") = 0);
  // `by`: dims of inputs. Splits nothing but their atoms, or (`others`) everything else; `sharded`: inputs
  // lie split wherever they can be.
  m.def("greedy_local_graphs",
        [](const std::string& text, const std::vector<int32_t>& mesh,
           const std::vector<std::pair<size_t, size_t>>& by, bool others, bool sharded) {
          const Whole whole(text, mesh);
          std::set<int32_t> atoms;
          for (const auto& [input, dim] : by) {
            const auto& leaves = whole.frame.value_dims[whole.graph.inputs().at(input)].at(dim);
            atoms.insert(leaves.begin(), leaves.end());
          }
          const auto splits = [&](int32_t atom) { return (atoms.count(atom) != 0) != others; };
          return run(whole, plan::greedy_assignment(whole.graph, whole.frame, whole.mesh, splits, sharded));
        });
  // The planner's own choice, where memory is no limit.
  m.def("planned_local_graphs", [](const std::string& text, const std::vector<int32_t>& mesh) {
    const Whole whole(text, mesh);
    const plan::Step step = plan::make_step(whole.graph);
    plan::Terms terms;
    terms.memory_bytes = 1e18;
    return run(whole, plan::assign(step, step.frame, whole.mesh, terms));
  });
  // Graphs with their collectives in buckets of so many bytes; `of_device`: the graph of each device.
  m.def("bucketed_local_graphs",
        [](const std::vector<std::string>& texts, const std::vector<size_t>& of_device,
           const std::vector<int32_t>& mesh, int64_t each, int64_t together) {
          std::vector<std::shared_ptr<const ir::Graph>> distinct, graphs;
          for (const auto& text : texts)
            distinct.push_back(std::make_shared<const ir::Graph>(ir::parse(text)));
          for (const size_t g : of_device) graphs.push_back(distinct.at(g));
          const auto merged = compile::merge_into_buckets(graphs, mesh, {each, together});
          std::vector<std::string> out(texts.size());
          for (size_t d = 0; d < merged.size(); ++d) out[of_device[d]] = ir::print(*merged[d]);
          return out;
        });
  // A graph of one node, split in each way that there is; its inputs lie as it asks, if they can.
  m.def("local_graphs_of_options", [](const std::string& text, const std::vector<int32_t>& mesh) {
    const Whole whole(text, mesh);
    MOAI_ASSERT(whole.graph.nodes().size() == 1, "the graph of one node");
    py::list out;
    for (auto& option : plan::options_of(whole.graph, whole.frame, 0, whole.mesh)) {
      plan::Assignment plan;
      std::vector<Placement> inputs(whole.graph.inputs().size(), Placement(mesh.size()));
      const auto& operands = whole.graph.node(0).operands;
      for (size_t o = 0; o < operands.size(); ++o) {
        const bool can_lie = std::none_of(option.operands[o].begin(), option.operands[o].end(),
                                          [](const Split& s) { return s.kind == Split::Kind::kPartial; });
        if (can_lie) inputs[whole.graph.value(operands[o]).index] = option.operands[o];
      }
      for (auto& placement : inputs) plan.inputs.push_back(std::move(placement));
      plan.nodes.push_back(std::move(option));
      plan::SplitCounts counts;
      plan::count_splits(whole.graph, whole.frame, plan, &counts);
      out.append(py::make_tuple(counts, run(whole, plan)));
    }
    return out;
  });
}

}  // namespace moai
