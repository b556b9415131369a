
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "ir/graph.h"
#include "ir/passes.h"
#include "ops/rule.h"
#include "ops/rule_builder.h"
#include "plan/atoms.h"
#include "plan/kept_whole.h"
#include "plan/prepare.h"
#include "python/bindings.h"

namespace py = pybind11;
using pybind11::literals::operator""_a;

namespace moai {

namespace {

const char* name_of(ops::Combine combine) {
  switch (combine) {
    case ops::Combine::kSum: return "sum";
    case ops::Combine::kProduct: return "product";
    case ops::Combine::kMean: return "mean";
    case ops::Combine::kWeighted: return "weighted";
    case ops::Combine::kMax: return "max";
    case ops::Combine::kMin: return "min";
    case ops::Combine::kNorm2: return "norm2";
    case ops::Combine::kAny: return "any";
    case ops::Combine::kAll: return "all";
    case ops::Combine::kSame: return "same";
    case ops::Combine::kUnknown: return "unknown";
  }
  return "?";
}

py::dict dict_of(const ir::Graph& graph, ir::NodeId node, const ops::Rule& rule) {
  py::list factors;
  for (size_t f = 0; f < rule.factors.size(); ++f) {
    const auto& factor = rule.factors[f];
    py::dict one;
    one["name"] = factor.name;
    one["size"] = factor.size;
    one["splittable"] = rule.splittable(static_cast<int32_t>(f));
    one["positional"] = factor.positional;
    one["exchanges"] = factor.exchanges;
    one["window"] = py::none();
    if (const ops::Window& window = factor.window; window.over >= 0) {
      one["window"] = py::dict("over"_a = window.over, "size"_a = window.size, "stride"_a = window.stride,
                               "padding"_a = window.padding, "dilation"_a = window.dilation,
                               "padding_arg"_a = window.padding_arg, "dim"_a = window.dim,
                               "dims"_a = window.dims, "outside"_a = window.outside);
    }
    factors.append(one);
  }
  py::list combine;
  for (const auto& of_result : rule.combine) {
    py::list row;
    for (const auto how : of_result) row.append(name_of(how));
    combine.append(row);
  }
  py::list local_args;
  for (const auto& local : rule.local_args)
    local_args.append(py::make_tuple(local.arg, local.element, local.factors, local.times));
  py::dict out;
  out["op"] = graph.node(node).op.str();
  out["factors"] = factors;
  out["operands"] = rule.operands;
  out["results"] = rule.results;
  out["combine"] = combine;
  out["additive"] = rule.additive;
  out["replicated"] = rule.replicated;
  out["averaged"] = rule.averaged;
  out["linear"] = rule.linear;
  out["local_args"] = local_args;
  out["flops"] = rule.flops;
  out["bytes"] = ops::bytes_moved(graph, node, rule);
  out["known"] = rule.known;
  out["why_whole"] = rule.why_whole;
  return out;
}

}  // namespace

void bind_rules(py::module_& m) {
  m.def("rules", [](const std::string& text) {
    const ir::Graph graph = ir::parse(text);
    ir::verify(graph);
    py::list out;
    for (ir::NodeId n = 0; n < static_cast<ir::NodeId>(graph.nodes().size()); ++n)
      out.append(dict_of(graph, n, ops::rule_of(graph, n)));
    return out;
  });
  m.def("canonicalise_views",
        [](const std::string& text) { return ir::print(ir::canonicalise_views(ir::parse(text))); });
  m.def("ops_with_rules", &ops::ops_with_rules);
  m.def("pointwise_rules", &ops::pointwise_rules);
  m.def("kept_whole", [](const std::string& text) {
    const ir::Graph graph = plan::prepare(ir::parse(text));
    ir::verify(graph);
    const auto report = plan::kept_whole(graph, plan::make_frame(graph));
    py::list ops;
    for (const auto& op : report.ops) ops.append(py::make_tuple(op.op, op.why, op.flops, op.bytes, op.nodes));
    py::dict out;
    out["flops_share"] = report.flops_share;
    out["bytes_share"] = report.bytes_share;
    out["ops"] = ops;
    return out;
  });
  // Each value's dims as lists of (atom, size), and the graph that they belong to.
  m.def("dims", [](const std::string& text) {
    const ir::Graph graph = plan::prepare(ir::parse(text));
    const auto frame = plan::make_frame(graph);
    py::list out;
    for (const auto& dims : frame.value_dims.all()) {
      std::vector<std::vector<std::pair<int32_t, int64_t>>> value;
      for (const auto& dim : dims) {
        value.emplace_back();
        for (const auto atom : dim) value.back().emplace_back(atom, frame.atoms.size(atom));
      }
      out.append(value);
    }
    return py::make_tuple(ir::print(graph), out);
  });
}

}  // namespace moai
