#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "ir/graph.h"
#include "plan/assign.h"
#include "python/bindings.h"

namespace py = pybind11;

namespace moai {

namespace {

using Edges = std::vector<std::tuple<int32_t, int32_t, std::vector<double>>>;  // a, b, row-major costs

plan::FactorGraph factor_graph(const std::vector<std::vector<double>>& costs, const Edges& edges) {
  plan::FactorGraph graph;
  for (const auto& of_variable : costs) graph.add_variable(of_variable);
  for (const auto& [a, b, values] : edges)
    graph.add_edge(a, b, plan::CostMatrix(graph.options(a), graph.options(b), values));
  return graph;
}

plan::SolveOptions solve_options(const std::map<std::string, double>& given) {
  plan::SolveOptions options;
  for (const auto& [name, value] : given) {
    if (name == "table_entries") options.table_entries = value;
    else if (name == "exact_steps") options.exact_steps = value;
    else if (name == "search_steps") options.search_steps = value;
    else if (name == "sweeps") options.sweeps = static_cast<int32_t>(value);
    else if (name == "blocks") options.blocks = static_cast<int32_t>(value);
    else if (name == "branches") options.branches = static_cast<int32_t>(value);
    else throw py::value_error("unknown option of the solver: " + name);
  }
  return options;
}

py::dict dict_of(const plan::Solution& solution) {
  py::dict out;
  out["choice"] = solution.choice;
  out["cost"] = solution.cost;
  out["lower_bound"] = solution.lower_bound;
  out["exact"] = solution.exact;
  out["gap"] = solution.gap();
  out["branches"] = solution.branches;
  out["tables"] = solution.tables;
  return out;
}

py::dict solve(const std::vector<std::vector<double>>& costs, const Edges& edges,
               const std::map<std::string, double>& options) {
  return dict_of(plan::solve(factor_graph(costs, edges), solve_options(options)));
}

py::dict solve_within(const std::vector<std::vector<double>>& costs, const Edges& edges,
                      std::vector<double> limits, std::vector<std::vector<double>> uses,
                      const std::map<std::string, double>& options, int32_t rounds) {
  plan::WithinOptions within;
  within.solve = solve_options(options);
  within.rounds = rounds;
  const auto graph = factor_graph(costs, edges);
  const auto found = plan::solve_within(graph, {std::move(limits), {}, std::move(uses)}, within);
  auto out = dict_of(found.solution);
  out["multipliers"] = found.multipliers;
  out["used"] = found.used;
  out["rounds"] = found.rounds;
  return out;
}

py::dict assignment_problem(const std::string& text, const std::string& cluster_text,
                            const std::vector<int32_t>& mesh, double memory_bytes, int32_t micro_batches) {
  const plan::Cluster cluster = plan::parse_cluster(cluster_text);
  const ir::Graph graph = ir::parse(text);
  ir::verify(graph);
  const plan::Step step = plan::make_step(graph);
  plan::Terms terms;
  terms.memory_bytes = memory_bytes;
  terms.turns = micro_batches;
  const auto problem =
      plan::assignment_problem(step, plan::frame_of_turn(step.frame, step.time, micro_batches),
                               plan::Mesh::make(cluster, mesh), terms);
  std::vector<std::vector<double>> costs;
  std::vector<std::string> names;
  for (int32_t v = 0; v < problem.costs.variables(); ++v) {
    costs.push_back(problem.costs.total_costs(v));
    names.push_back(problem.costs.name(v));
  }
  Edges edges;
  for (const auto& edge : problem.costs.edges()) {
    auto values = edge.costs.values();
    for (auto& value : values) value *= edge.repeat;
    edges.emplace_back(edge.a, edge.b, std::move(values));
  }
  py::dict out;
  out["costs"] = costs;
  out["names"] = names;
  out["edges"] = edges;
  out["limits"] = problem.memory.limits;
  out["uses"] = problem.memory.uses;
  return out;
}

}  // namespace

void bind_solver(py::module_& m) {
  m.def("solve", &solve, py::arg("costs"), py::arg("edges"),
        py::arg("options") = std::map<std::string, double>{});
  m.def("solve_within", &solve_within, py::arg("costs"), py::arg("edges"), py::arg("limits"), py::arg("uses"),
        py::arg("options") = std::map<std::string, double>{},
        py::arg("rounds") = plan::WithinOptions{}.rounds);
  m.def("assignment_problem", &assignment_problem, py::arg("graph"), py::arg("cluster"), py::arg("mesh"),
        py::arg("memory_bytes"), py::arg("micro_batches") = 1);
}

}  // namespace moai
