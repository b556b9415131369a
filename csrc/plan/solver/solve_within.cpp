#include "plan/solver/solve_within.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>

#include "ir/error.h"
#include "plan/solver/bundle.h"
#include "plan/solver/enumerate.h"
#include "plan/solver/pairwise.h"
#include "plan/solver/repair.h"

namespace moai::plan {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kTolerance = 1e-9;
constexpr size_t kPromising = 6;    // choices improved at length in the end
constexpr double kFirstRise = 0.5;  // of the bound, in the first step
constexpr double kWide = 0.01;      // gaps from here on are halved
constexpr double kStalled = 0.1;    // of the gap: less than this from asking again at the same prices is none

double least_use(const FactorGraph& graph, const Resources& resources, int32_t variable, size_t resource) {
  const std::vector<double>& uses = resources.uses[variable];
  if (uses.empty()) return 0;
  double least = kInfinity;
  for (int32_t i = 0; i < graph.options(variable); ++i) {
    if (graph.total_costs(variable)[i] == kInfinity) continue;
    least = std::min(least, uses[i * resources.limits.size() + resource]);
  }
  return least;
}

// What no choice that is allowed costs more than.
double most_cost(const Pairwise& problem) {
  double total = 0;
  const auto add_most = [&](const std::vector<double>& costs) {
    double most = -kInfinity;
    for (const double cost : costs) {
      if (cost < kInfinity) most = std::max(most, cost);
    }
    total += most;
  };
  for (const auto& costs : problem.unary) add_most(costs);
  for (const Pairwise::Edge& edge : problem.edges) add_most(*edge.table);
  return total;
}

// A limit that even the least uses exceed, or -1.
int32_t exceeded_anyway(const FactorGraph& graph, const Resources& resources) {
  for (size_t k = 0; k < resources.limits.size(); ++k) {
    double least = 0;
    for (int32_t v = 0; v < graph.variables(); ++v) least += least_use(graph, resources, v, k);
    const double limit = resources.limits[k];
    if (least > limit + kTolerance * (limit > 0 ? limit : 1)) return static_cast<int32_t>(k);
  }
  return -1;
}

struct Priced {
  WithinSolution found;
  std::vector<int32_t> over;  // the last choice that was best at some prices and exceeds a limit
};

Priced solve_by_prices(const FactorGraph& graph, const Resources& resources, const WithinOptions& options,
                       const std::vector<int32_t>& start) {
  const size_t count = resources.limits.size();
  MOAI_ASSERT(resources.uses.size() == static_cast<size_t>(graph.variables()), "uses of ",
              resources.uses.size(), " variables, of ", graph.variables());
  for (int32_t v = 0; v < graph.variables(); ++v) {
    const size_t uses = resources.uses[v].size();
    MOAI_ASSERT(uses == 0 || uses == count * graph.options(v), uses, " uses by options of ", graph.name(v));
  }
  std::vector<double> scale;
  for (const double limit : resources.limits) {
    MOAI_ASSERT(limit >= 0, "a limit of ", limit);
    scale.push_back(limit > 0 ? limit : 1);
  }

  Priced priced;
  WithinSolution& result = priced.found;
  result.multipliers.assign(count, 0);
  result.blocked = exceeded_anyway(graph, resources);
  if (result.blocked >= 0) {
    result.solution = {{}, kInfinity, kInfinity, true};
    return priced;
  }

  std::vector<std::vector<double>> loops;
  Pairwise merged = merge_edges(graph, &loops);
  for (int32_t v = 0; v < graph.variables(); ++v) {
    for (size_t i = 0; i < loops[v].size(); ++i) merged.unary[v][i] += loops[v][i];
  }
  const double most = most_cost(merged) + kTolerance * std::fabs(most_cost(merged));
  Repair repair(merged, resources);
  Solution& best = result.solution;
  best = {{}, kInfinity, -kInfinity, false};
  double least_excess = kInfinity;
  std::vector<std::pair<double, std::vector<int32_t>>> promising;  // the cheapest within the limits
  const auto keep = [&](const std::vector<int32_t>& choice) {
    const double cost = graph.cost(choice);
    if (cost >= best.cost) return;
    best.choice = choice;
    best.cost = cost;
    repair.set(choice);
    result.used = repair.used();
  };
  const auto consider = [&](const std::vector<int32_t>& choice) {
    repair.set(choice);
    if (repair.cost() == kInfinity) return;
    if (repair.excess() < least_excess && best.choice.empty()) {
      least_excess = repair.excess();
      result.used = repair.used();
    }
    if (!repair.repair(std::numeric_limits<double>::max())) return;
    repair.improve(0);
    const std::pair<double, std::vector<int32_t>> found{graph.cost(repair.choice()), repair.choice()};
    const auto at = std::lower_bound(promising.begin(), promising.end(), found);
    if (at != promising.end() && *at == found) return;
    promising.insert(at, found);
    if (promising.size() > kPromising) promising.pop_back();
    keep(promising[0].second);
  };
  if (!start.empty()) consider(start);

  Solver solver(graph, options.solve);
  Bundle bundle(count, 0);
  std::vector<int32_t> last = start;
  std::vector<double> asked;  // the last prices
  const auto is_closed = [&] {
    const double enough = std::max(kTolerance, options.enough_gap);
    return best.lower_bound > -kInfinity &&
           best.lower_bound >=
               best.cost - enough * std::max(std::fabs(best.cost), std::fabs(best.lower_bound));
  };
  for (; result.rounds < options.rounds; ++result.rounds) {
    const std::vector<double> prices = bundle.point();
    const double bound_before = best.lower_bound, cost_before = best.cost;
    if (is_closed() || best.lower_bound >= options.give_up) break;
    if (best.lower_bound > most) {  // prices can rise for ever: no choice keeps all limits
      best.exact = true;
      break;
    }
    if (result.rounds > 0 && bundle.promised() <= 1e-8 * std::fabs(bundle.best_value())) break;

    double offset = 0;
    for (size_t k = 0; k < count; ++k) {
      const double term = prices[k] * resources.limits[k] / scale[k];
      offset += term;
    }
    for (int32_t v = 0; v < graph.variables(); ++v) {
      if (resources.uses[v].empty()) continue;
      std::vector<double> costs = graph.total_costs(v);
      for (size_t i = 0; i < costs.size(); ++i) {
        for (size_t k = 0; k < count; ++k) {
          const double price = prices[k] * resources.uses[v][i * count + k] / scale[k];
          costs[i] += price;
        }
      }
      solver.set_total_costs(v, std::move(costs));
    }
    solver.set_give_up(options.give_up + offset);
    const Solution solved = solver.solve(last);
    best.steps += solved.steps;
    best.tables += solved.tables;
    best.largest_table = std::max(best.largest_table, solved.largest_table);
    best.sweeps += solved.sweeps;
    best.branches += solved.branches;
    if (!solved.feasible()) {  // forbidden options do not depend on prices
      best.lower_bound = std::max(best.lower_bound, solved.lower_bound - offset);
      best.exact = solved.exact;
      best.blocked = solved.blocked;
      break;
    }
    if (solved.lower_bound - offset > best.lower_bound) {
      best.lower_bound = solved.lower_bound - offset;
      for (size_t k = 0; k < count; ++k) result.multipliers[k] = prices[k] / scale[k];
    }
    last = solved.choice;
    repair.set(solved.choice);
    const double cost = repair.cost();
    if (repair.excess() > 0) priced.over = solved.choice;
    std::vector<double> slope(count);
    for (size_t k = 0; k < count; ++k) slope[k] = (repair.used()[k] - resources.limits[k]) / scale[k];
    consider(solved.choice);
    if (result.rounds == 0) {
      const double rise = best.choice.empty() ? std::fabs(cost) : best.cost - cost;
      bundle = Bundle(count, kFirstRise * (rise > 0 ? rise : 1));
    }
    bundle.add(solved.lower_bound - offset, cost, std::move(slope));
    // Where no limit binds, prices stay where they are, and what is open is the solver's own gap. Asked again
    // it may narrow that, since it starts from its last messages, but not for ever.
    const double gained = best.lower_bound - bound_before;
    if (prices == asked && best.cost == cost_before && gained < kStalled * (best.cost - best.lower_bound))
      break;
    asked = prices;
  }

  for (const auto& [cost, choice] : promising) {
    if (best.exact || is_closed() || best.lower_bound >= options.give_up) break;
    repair.set(choice);
    repair.improve(options.improvements);
    keep(repair.choice());
  }
  const double tolerance = kTolerance * std::max(std::fabs(best.cost), std::fabs(best.lower_bound));
  if (best.feasible() && best.lower_bound >= best.cost - tolerance) best.exact = true;
  const bool is_good = best.feasible() && best.lower_bound > -kInfinity &&
                       best.lower_bound >= best.cost - options.enough_gap * std::fabs(best.cost);
  if (!best.exact && !is_good && options.enumerate_steps > 0 && best.lower_bound < options.give_up) {
    const double below = best.feasible() ? best.cost : most + std::fabs(most) + 1;
    const Enumeration found =
        enumerate_within(merged, resources, result.multipliers, below, options.enumerate_steps);
    if (!found.choice.empty()) keep(found.choice);
    best.exact = best.exact || found.is_complete;
  }
  if (best.exact) best.lower_bound = best.cost;
  return priced;
}

// Options of one variable that use little of a resource, and the others.
struct Cut {
  int32_t variable = -1;
  size_t resource = 0;
  double most = 0;  // that the first ones use
};

// Of the limit that `over` exceeds most: the variable whose use differs most between `over` and `within`, cut
// in the middle between the two.
Cut widest_cut(const FactorGraph& graph, const Resources& resources, const std::vector<int32_t>& over,
               const std::vector<int32_t>& within) {
  const size_t count = resources.limits.size();
  const auto use = [&](int32_t v, int32_t option, size_t k) {
    return resources.uses[v].empty() ? 0 : resources.uses[v][static_cast<size_t>(option) * count + k];
  };
  Cut cut;
  double most_excess = 0;
  for (size_t k = 0; k < count; ++k) {
    double excess = -resources.limits[k];
    for (int32_t v = 0; v < graph.variables(); ++v) excess += use(v, over[v], k);
    if (resources.limits[k] > 0) excess /= resources.limits[k];
    if (excess <= most_excess) continue;
    most_excess = excess;
    cut.resource = k;
  }
  double widest = 0;
  for (int32_t v = 0; v < graph.variables(); ++v) {
    const double low = use(v, within[v], cut.resource), high = use(v, over[v], cut.resource);
    if (high - low <= widest) continue;
    widest = high - low;
    cut.variable = v;
    cut.most = low + widest / 2;
  }
  return cut;
}

}  // namespace

bool is_wide(const WithinSolution& found, const WithinOptions& options) {
  const Solution& best = found.solution;
  return best.feasible() && !best.exact && best.lower_bound < options.give_up &&
         best.lower_bound < best.cost - std::max(options.enough_gap, kWide) * std::fabs(best.cost);
}

WithinSolution solve_within(const FactorGraph& graph, const Resources& resources,
                            const WithinOptions& options, const std::vector<int32_t>& start) {
  Priced priced = solve_by_prices(graph, resources, options, start);
  WithinSolution& result = priced.found;
  Solution& best = result.solution;
  if (options.halvings == 0 || !is_wide(result, options) || priced.over.empty()) return result;
  const Cut cut = widest_cut(graph, resources, priced.over, best.choice);
  if (cut.variable < 0) return result;
  double bound = kInfinity;  // of both halves
  for (const bool is_low : {true, false}) {
    FactorGraph half = graph;
    std::vector<double> costs = graph.total_costs(cut.variable);
    const auto is_in = [&](size_t option) {
      const auto& uses = resources.uses[cut.variable];
      return (uses[option * resources.limits.size() + cut.resource] <= cut.most) == is_low;
    };
    for (size_t i = 0; i < costs.size(); ++i) {
      if (!is_in(i)) costs[i] = kInfinity;
    }
    half.set_total_costs(cut.variable, std::move(costs));
    WithinOptions less = options;
    less.halvings = options.halvings - 1;
    less.give_up = std::min(options.give_up, best.cost);
    const bool has_best = is_in(static_cast<size_t>(best.choice[cut.variable]));
    const WithinSolution found =
        solve_within(half, resources, less, has_best ? best.choice : std::vector<int32_t>{});
    result.rounds += found.rounds;
    best.steps += found.solution.steps;
    best.tables += found.solution.tables;
    best.largest_table = std::max(best.largest_table, found.solution.largest_table);
    best.sweeps += found.solution.sweeps;
    best.branches += found.solution.branches;
    bound = std::min(bound, found.solution.lower_bound);
    if (found.solution.feasible() && found.solution.cost < best.cost) {
      best.choice = found.solution.choice;
      best.cost = found.solution.cost;
      result.used = found.used;
    }
  }
  best.lower_bound = std::max(best.lower_bound, std::min(bound, best.cost));
  best.exact = best.lower_bound >= best.cost - kTolerance * std::fabs(best.cost);
  return result;
}

void require_feasible(const FactorGraph& graph, const Resources& resources, const WithinSolution& solution) {
  if (solution.solution.feasible()) return;
  const auto name = [&](size_t k) {
    return k < resources.names.size() && !resources.names[k].empty() ? resources.names[k]
                                                                     : concat("resource ", k);
  };
  if (solution.blocked >= 0) {
    const auto k = static_cast<size_t>(solution.blocked);
    double least = 0;
    double most = -kInfinity;
    int32_t variable = 0;
    for (int32_t v = 0; v < graph.variables(); ++v) {
      const double use = least_use(graph, resources, v, k);
      least += use;
      if (use > most) {
        most = use;
        variable = v;
      }
    }
    throw Error(Phase::kPlan, concat("nothing fits in ", resources.limits[k], " of ", name(k)))
        .detail(concat("least use: ", least, ", of it by ", graph.name(variable), ": ", most))
        .hint(concat("would fit: ", least, " or more"));
  }
  if (solution.used.empty()) require_feasible(graph, solution.solution);
  Error error(Phase::kPlan,
              solution.solution.exact ? "nothing keeps all limits" : "found nothing that keeps all limits");
  for (size_t k = 0; k < solution.used.size(); ++k) {
    if (solution.used[k] <= resources.limits[k]) continue;
    error.detail(concat(name(k), ": ", solution.used[k], " used at least, limit ", resources.limits[k]));
  }
  throw std::move(error).hint("would fit: limits at what is used");
}

}  // namespace moai::plan
