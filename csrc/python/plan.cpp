#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "ir/graph.h"
#include "plan/planner.h"
#include "python/bindings.h"

namespace py = pybind11;

namespace moai {

namespace {

py::dict dict_of(const plan::Candidate& candidate) {
  py::list axes;
  for (const auto& axis : candidate.axes) {
    py::dict one;
    one["size"] = axis.size;
    one["name"] = axis.name;
    one["data"] = axis.data;
    one["sequence"] = axis.sequence;
    one["tensor"] = axis.tensor;
    one["whole"] = axis.whole;
    axes.append(one);
  }
  const auto& found = candidate.assignment;
  py::dict out;
  out["fits"] = found.fits;
  out["mesh"] = candidate.mesh;
  out["layout"] = candidate.layout;
  out["axes"] = axes;
  out["step_time_s"] = found.seconds;
  out["compute_s"] = found.compute_seconds;
  out["communicate_s"] = found.communicate_seconds;
  out["lower_bound"] = found.lower_bound;
  out["peak_bytes"] = candidate.peak_bytes;
  out["bytes_after_forward"] = found.bytes[0];
  out["bytes_after_backward"] = found.bytes[1];
  out["state_bytes"] = found.state_bytes;
  out["variables"] = found.variables;
  out["options"] = found.options;
  out["exact"] = found.exact;
  out["rounds"] = found.rounds;
  out["search_seconds"] = candidate.search_seconds;
  out["excess"] = found.excess;
  return out;
}

}  // namespace

void bind_plan(py::module_& m) {
  m.def(
      "plan_step",
      [](const std::string& text, const std::string& cluster_text, int32_t micro_batches) {
        const plan::Cluster cluster = plan::parse_cluster(cluster_text);
        plan::StepPlan found;
        {
          const py::gil_scoped_release release;
          const ir::Graph graph = ir::parse(text);
          ir::verify(graph);
          found = plan::plan_step(graph, cluster, micro_batches);
        }
        py::list candidates;
        for (const auto& candidate : found.candidates) candidates.append(dict_of(candidate));
        py::list kept;
        for (const auto& op : found.kept_whole.ops) {
          if (op.bytes > 0) kept.append(py::make_tuple(op.op, op.why, op.flops, op.bytes, op.nodes));
        }
        py::dict out;
        out["micro_batches"] = found.micro_batches;
        out["candidates"] = candidates;
        out["lower_bound"] = found.lower_bound;
        out["frame_seconds"] = found.frame_seconds;
        out["search_seconds"] = found.search_seconds;
        out["kept_whole_flops_share"] = found.kept_whole.flops_share;
        out["kept_whole_bytes_share"] = found.kept_whole.bytes_share;
        out["kept_whole"] = kept;
        return out;
      },
      py::arg("graph"), py::arg("cluster"), py::arg("micro_batches") = 1);
  m.def("cluster", [](const std::string& text) {
    const plan::Cluster cluster = plan::parse_cluster(text);
    py::dict out;
    out["name"] = cluster.name;
    out["devices"] = cluster.device_count();
    out["device"] = cluster.device(0).name;
    out["memory_bytes"] = cluster.smallest_memory();
    return out;
  });
}

}  // namespace moai
