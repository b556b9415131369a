#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "ir/error.h"
#include "ir/graph.h"
#include "plan/cluster/collectives.h"
#include "plan/explain.h"
#include "plan/lookups.h"
#include "plan/plan_file.h"
#include "plan/planner.h"
#include "python/bindings.h"

namespace py = pybind11;

namespace moai {

namespace {

py::dict dict_of(const plan::Bytes& bytes) {
  py::dict out;
  out["weights"] = bytes.weights;
  out["states"] = bytes.states;
  out["data"] = bytes.data;
  out["gradients"] = bytes.gradients;
  out["activations"] = bytes.activations;
  out["scratch"] = bytes.scratch;
  out["working"] = bytes.working;
  return out;
}

py::dict dict_of(const plan::AxisUse& axis) {
  py::dict out;
  out["name"] = axis.name;
  out["size"] = axis.size;
  out["data"] = axis.data;
  out["sequence"] = axis.sequence;
  out["expert"] = axis.expert;
  out["tensor"] = axis.tensor;
  out["whole"] = axis.whole;
  out["states_in_parts"] = axis.states_in;
  return out;
}

const char* name_of(plan::InputRole role) {
  switch (role) {
    case plan::InputRole::kData: return "data";
    case plan::InputRole::kWeight: return "weight";
    case plan::InputRole::kState: return "state";
  }
  return "";
}

py::dict dict_of(const plan::OpCost& cost) {
  py::dict out;
  out["products_s"] = cost.product;
  out["attention_s"] = cost.attention;
  out["memory_s"] = cost.memory;
  out["overhead_s"] = cost.overhead;
  out["exchange_s"] = cost.exchange;
  out["host_s"] = cost.host;
  return out;
}

py::dict dict_of(const plan::Breakdown& breakdown, const std::vector<plan::AxisUse>& axes) {
  py::list ops, messages;
  for (const auto& op : breakdown.ops) {
    py::dict one = dict_of(op.cost);
    one["op"] = op.name;
    one["count"] = op.count;
    one["seconds"] = op.seconds;
    ops.append(one);
  }
  for (const auto& message : breakdown.messages) {
    py::dict one;
    one["collective"] = plan::collective_name(message.collective);
    one["axis"] = message.axis;
    one["axis_name"] = axes[message.axis].name;
    one["once_a_step"] = message.is_gradient;
    one["count"] = message.count;
    one["bytes"] = message.bytes;
    one["seconds"] = message.seconds;
    messages.append(one);
  }
  py::dict out;
  out["compute"] = dict_of(breakdown.compute);
  out["ops"] = ops;
  out["messages"] = messages;
  return out;
}

py::dict dict_of(const plan::Picture& picture) {
  constexpr const char* kKinds[] = {"forward", "backward", "weight", "update"};
  py::list spans, memory;
  for (const auto& span : picture.spans)
    spans.append(py::make_tuple(span.device, kKinds[static_cast<size_t>(span.kind)], span.chunk,
                                span.micro_batch, span.start, span.end));
  for (const auto& points : picture.memory) {
    py::list device;
    for (const auto& point : points) device.append(py::make_tuple(point.seconds, point.bytes));
    memory.append(device);
  }
  py::dict out;
  out["spans"] = spans;
  out["memory"] = memory;
  return out;
}

// `told`: of the best; empty of the others.
py::dict dict_of(const plan::Candidate& candidate, const plan::Explanation& told = {}) {
  py::list axes, tensors;
  for (const auto& axis : candidate.axes) axes.append(dict_of(axis));
  for (const auto& group : told.tensors) {
    py::dict one;
    one["type"] = group.type;
    one["role"] = name_of(group.role);
    one["count"] = group.count;
    one["bytes"] = group.bytes;
    one["placement"] = group.placement;
    tensors.append(one);
  }
  py::dict time;
  time["compute_s"] = candidate.spent.compute;
  time["communicate_s"] = candidate.spent.communicate;
  time["exposed_communication_s"] = candidate.spent.exposed;
  time["bubble_s"] = candidate.bubble_seconds;
  time["host_s"] = candidate.spent.host;
  time["exposed_host_s"] = candidate.spent.exposed_host;
  time["between_stages_s"] = candidate.handed.communicate;
  time["exposed_between_stages_s"] = candidate.handed.exposed;
  py::list memory;
  for (const auto& part : told.memory) {
    py::dict one;
    one["kind"] = plan::memory_kind_name(part.kind);
    one["op"] = part.op;
    one["type"] = part.type;
    one["count"] = part.count;
    one["bytes"] = part.bytes;
    memory.append(one);
  }
  const auto& found = candidate.assignment;
  py::dict out;
  out["fits"] = candidate.fits;
  out["layout"] = candidate.layout;
  out["mesh"] = candidate.outer.mesh;
  out["stages"] = candidate.outer.stages;
  out["chunks"] = candidate.outer.chunks;
  out["order"] = plan::order_name(candidate.outer.order);
  out["micro_batches"] = candidate.outer.micro_batches;
  out["recompute"] = plan::recompute_name(candidate.outer.recompute);
  out["capacity"] = candidate.outer.capacity;
  out["offload"] = plan::offload_name(candidate.outer.offload);
  out["stage_begins"] = candidate.stage_begins;
  out["axes"] = axes;
  out["tensors"] = tensors;
  out["step_time_s"] = candidate.step_seconds;
  out["sum_s"] = candidate.sum_seconds();
  // Infinite where nothing fits, which JSON has no word for.
  out["lower_bound"] = candidate.fits ? py::object(py::float_(found.lower_bound)) : py::none();
  out["time"] = time;
  out["peak_bytes"] = candidate.peak_bytes;
  out["bytes"] = dict_of(candidate.bytes);
  out["host_bytes"] = candidate.bytes.host;
  out["variables"] = found.variables;
  out["options"] = found.options;
  out["exact"] = found.exact;
  out["excess"] = candidate.excess;
  out["memory_parts"] = memory;
  out["breakdown"] = dict_of(told.breakdown, candidate.axes);
  out["picture"] = dict_of(told.picture);
  return out;
}

}  // namespace

void bind_plan(py::module_& m) {
  m.def(
      "plan_step",
      [](const std::string& text, const std::string& cluster_text, const std::string& pins_text,
         const std::string& saved) {
        const plan::Cluster cluster = plan::parse_cluster(cluster_text);
        plan::StepPlan found;
        plan::Explanation told;
        plan::Lookups lookups;
        {
          const py::gil_scoped_release release;
          const ir::Graph graph = ir::parse(text);
          ir::verify(graph);
          plan::Pins pins = plan::parse_pins(pins_text);
          if (!saved.empty()) pins.saved = std::make_shared<const plan::SavedPlan>(plan::load_plan(saved));
          found = plan::plan_step(graph, cluster, pins);
          told = plan::explain(found, cluster);
          lookups = plan::find_lookups(graph);
        }
        py::list candidates;
        for (const auto& candidate : found.candidates)
          candidates.append(candidates.empty() ? dict_of(candidate, told) : dict_of(candidate));
        py::dict out;
        out["candidates"] = candidates;
        out["saved"] = told.saved;
        out["lower_bound"] = found.lower_bound;
        out["gap"] = found.gap;
        out["mesh_gap"] = found.mesh_gap;
        out["tried"] = found.tried;
        out["ruled_out"] = found.ruled_out;
        py::list kept;
        for (const auto& op : found.kept_whole.ops) {
          if (op.bytes > 0) kept.append(py::make_tuple(op.op, op.why, op.flops, op.bytes, op.nodes));
        }
        out["kept_whole"] = kept;
        out["flops"] = found.flops;
        out["batch"] = found.batch;
        out["tokens"] = lookups.tokens;
        out["token_sizes"] = std::vector<int64_t>(lookups.sizes.begin(), lookups.sizes.end());
        out["no_micro_batches"] = found.no_turns;
        out["kept_whole_flops_share"] = found.kept_whole.flops_share;
        out["kept_whole_bytes_share"] = found.kept_whole.bytes_share;
        out["rules_seconds"] = found.rules_seconds;
        out["bound_seconds"] = found.bound_seconds;
        out["search_seconds"] = found.search_seconds;
        return out;
      },
      py::arg("graph"), py::arg("cluster"), py::arg("pins") = "", py::arg("saved") = "");
  m.def("cluster", [](const std::string& text) {
    const plan::Cluster cluster = plan::parse_cluster(text);
    py::dict out;
    out["name"] = cluster.name;
    out["devices"] = cluster.device_count();
    out["device"] = cluster.device(0).name;
    out["memory_bytes"] = cluster.smallest_memory();
    // Of all products in 16 bits, at their peak.
    out["flops"] = cluster.evened().device(0).flops(ir::DType::kBF16);
    out["json"] = plan::print_json(cluster);
    return out;
  });
  // Of a collective between `size` devices that are `stride` apart: by the fastest algorithm, or in a ring.
  m.def(
      "collective_seconds",
      [](const std::string& text, const std::string& name, int64_t stride, int64_t size, double bytes,
         bool in_ring) {
        const plan::Cluster cluster = plan::parse_cluster(text);
        const plan::Group group = plan::axis_group(cluster, stride, size);
        for (const auto collective : {plan::Collective::kAllReduce, plan::Collective::kAllGather,
                                      plan::Collective::kReduceScatter, plan::Collective::kAllToAll}) {
          if (name != plan::collective_name(collective)) continue;
          return in_ring ? plan::seconds_by(plan::Algorithm::kRing, cluster, collective, group, bytes)
                         : plan::seconds(cluster, collective, group, bytes);
        }
        throw Error(Phase::kConfig, concat("`", name, "` is no collective"))
            .hint("would work: all-reduce, all-gather, reduce-scatter, all-to-all");
      },
      py::arg("cluster"), py::arg("collective"), py::arg("stride"), py::arg("size"), py::arg("bytes"),
      py::arg("in_ring") = false);
}

}  // namespace moai
