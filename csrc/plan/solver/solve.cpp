#include "plan/solver/solve.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "ir/error.h"
#include "plan/solver/dual.h"
#include "plan/solver/exact.h"
#include "plan/solver/search.h"

namespace moai::plan {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kTolerance = 1e-9;

// Eliminating a variable with two neighbours is worth a few dozen sweeps over its tables, and no more.
constexpr double kReductionSteps = 1e8;
// Looking for dominated options takes a few passes over all tables; elimination this cheap needs none.
constexpr double kCheapSteps = 1e6;

KeptOptions all_options(const FactorGraph& graph) {
  KeptOptions options(graph.variables());
  for (int32_t v = 0; v < graph.variables(); ++v) {
    options[v].resize(graph.options(v));
    std::iota(options[v].begin(), options[v].end(), 0);
  }
  return options;
}

// Where each original option went; those removed went to the first.
std::vector<int32_t> restrict_choice(const std::vector<int32_t>& choice, const KeptOptions& options) {
  std::vector<int32_t> restricted(choice.size(), 0);
  for (size_t v = 0; v < choice.size(); ++v) {
    const auto at = std::lower_bound(options[v].begin(), options[v].end(), choice[v]);
    if (at != options[v].end() && *at == choice[v]) {
      restricted[v] = static_cast<int32_t>(at - options[v].begin());
    }
  }
  return restricted;
}

}  // namespace

double Solution::gap() const {
  if (!feasible()) return kInfinity;
  if (exact || cost <= lower_bound) return 0;
  return (cost - lower_bound) / std::max(std::fabs(cost), std::fabs(lower_bound));
}

Solver::Solver(FactorGraph graph, SolveOptions options)
    : graph_(std::move(graph)), options_(options), merged_(merge_edges(graph_, &loops_)) {
  order_ = order_elimination(
      merged_, {options_.table_entries, options_.total_entries, options_.exact_steps, merged_.variables()});
  reduction_ =
      order_elimination(merged_, {options_.table_entries, options_.total_entries, kReductionSteps, 2});
}

void Solver::set_total_costs(int32_t variable, std::vector<double> costs) {
  graph_.set_total_costs(variable, std::move(costs));
}

Solution Solver::solve(const std::vector<int32_t>& start) {
  for (int32_t v = 0; v < merged_.variables(); ++v) {
    const std::vector<double>& costs = graph_.total_costs(v);
    for (size_t i = 0; i < costs.size(); ++i) merged_.unary[v][i] = costs[i] + loops_[v][i];
  }
  Solution solution{{}, kInfinity, kInfinity, true};
  KeptOptions options = all_options(graph_);
  solution.blocked = remove_forbidden(merged_, &options);
  if (solution.blocked >= 0) return solution;

  const bool is_small = order_.order.size() == merged_.unary.size();
  if (!is_small || order_.steps > kCheapSteps) remove_dominated(merged_, &options);
  const Pairwise problem = restrict_options(merged_, options);
  const EliminationLimits limits{options_.table_entries, options_.total_entries,
                                 std::min(options_.direct_steps, options_.exact_steps), problem.variables()};
  const EliminationOrder order =
      is_small && order_.steps <= limits.steps ? order_ : order_elimination(problem, limits);
  if (order.order.size() < problem.unary.size() || options_.exact_steps <= 0) {
    const double cost = start.empty() ? kInfinity : graph_.cost(start);
    solution = search(problem, options, start, cost);
  } else {
    const Elimination elimination(problem, order.order);
    count(order, &solution);
    solution.blocked = elimination.blocked();
    if (solution.blocked < 0) {
      solution.choice.resize(problem.unary.size());
      elimination.complete(&solution.choice);
    }
  }
  finish(options, start, &solution);
  return solution;
}

Solution Solver::search(const Pairwise& problem, const KeptOptions& options,
                        const std::vector<int32_t>& start, double start_cost) {
  Solution solution{{}, kInfinity, kInfinity, true};
  const EliminationOrder reduction = options_.exact_steps > 0 ? reduction_ : EliminationOrder{};
  const Elimination reduced(problem, reduction.order);
  count(reduction, &solution);
  if (reduced.blocked() >= 0) {
    solution.blocked = reduced.blocked();
    return solution;
  }
  const Pairwise core = reduced.rest();
  const std::vector<int32_t>& variables = reduced.left();

  Dual root(core);
  for (size_t e = 0; e < core.edges.size(); ++e) {
    const int32_t a = core.edges[e].a;
    const int32_t b = core.edges[e].b;
    const auto last = messages_.find({variables[a], variables[b]});
    if (last == messages_.end()) continue;
    for (const int32_t end : {a, b}) {
      std::vector<double> message;
      for (const int32_t i : options[variables[end]]) {
        message.push_back((end == a ? last->second.first : last->second.second)[i]);
      }
      root.set_message(e, end, message);
    }
  }

  SolveOptions options_of_core = options_;
  options_of_core.give_up -= reduced.constant();
  Search search(core, options_of_core, reduced.constant(), &solution);
  if (!start.empty()) {
    const std::vector<int32_t> all = restrict_choice(start, options);
    std::vector<int32_t> choice;
    choice.reserve(variables.size());
    for (const int32_t v : variables) choice.push_back(all[v]);
    search.set_start(choice);
    search.set_upper(start_cost - reduced.constant());
  }
  search.run(&root);

  for (size_t e = 0; e < core.edges.size(); ++e) {
    const int32_t a = variables[core.edges[e].a];
    const int32_t b = variables[core.edges[e].b];
    Message& message = messages_[{a, b}];
    message = {std::vector<double>(graph_.options(a), 0.0), std::vector<double>(graph_.options(b), 0.0)};
    const std::vector<double> to_a = root.message(e, core.edges[e].a);
    const std::vector<double> to_b = root.message(e, core.edges[e].b);
    for (size_t i = 0; i < to_a.size(); ++i) message.first[options[a][i]] = to_a[i];
    for (size_t i = 0; i < to_b.size(); ++i) message.second[options[b][i]] = to_b[i];
  }

  solution.lower_bound = reduced.constant() + search.bound();
  solution.exact = search.bound() == kInfinity;
  if (solution.exact && search.blocked() >= 0) solution.blocked = variables[search.blocked()];
  if (search.found()) {
    solution.choice.assign(problem.unary.size(), 0);
    for (size_t k = 0; k < variables.size(); ++k) solution.choice[variables[k]] = search.best()[k];
    reduced.complete(&solution.choice);
  }
  return solution;
}

// Puts a solution into the caller's terms.
void Solver::finish(const KeptOptions& options, const std::vector<int32_t>& start, Solution* solution) const {
  for (size_t v = 0; v < solution->choice.size(); ++v) solution->choice[v] = options[v][solution->choice[v]];
  solution->cost = solution->feasible() ? graph_.cost(solution->choice) : kInfinity;
  const double start_cost = start.empty() ? kInfinity : graph_.cost(start);
  if (start_cost < solution->cost) {
    solution->choice = start;
    solution->cost = start_cost;
  }
  if (solution->feasible()) solution->blocked = -1;
  const double tolerance = kTolerance * std::max(std::fabs(solution->cost), std::fabs(solution->lower_bound));
  if (solution->feasible() && solution->lower_bound >= solution->cost - tolerance) solution->exact = true;
  if (solution->exact) solution->lower_bound = solution->cost;
}

Solution solve(const FactorGraph& graph, const SolveOptions& options, const std::vector<int32_t>& start) {
  return Solver(graph, options).solve(start);
}

void require_feasible(const FactorGraph& graph, const Solution& solution) {
  if (solution.feasible()) return;
  Error error(Phase::kPlan, solution.exact ? "no choice of options is allowed"
                                           : "found no choice of options that is allowed");
  if (solution.blocked >= 0) {
    error.detail(concat("nothing is left for ", graph.name(solution.blocked), ", which has ",
                        graph.options(solution.blocked), " options"));
  }
  throw std::move(error).hint(solution.exact ? "would work: another option there or near it"
                                             : "would work: more sweeps or branches");
}

}  // namespace moai::plan
