// Random factor graphs, and what a solution of one must hold.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "catch.h"
#include "plan/solver/solve.h"
#include "plan/solver/solve_within.h"

namespace moai::plan {

inline constexpr double kInfinity = std::numeric_limits<double>::infinity();

enum class Shape { kTree, kCycle, kResidual, kDense, kHub };
enum class Costs { kReal, kSmallIntegers };  // the latter have many ties

class RandomGraph {
 public:
  explicit RandomGraph(uint32_t seed) : random_(seed) {}

  int32_t below(int32_t end) { return static_cast<int32_t>(random_() % static_cast<uint32_t>(end)); }

  FactorGraph make(Shape shape, int32_t variables, int32_t options, int32_t percent_forbidden) {
    costs_ = below(2) ? Costs::kReal : Costs::kSmallIntegers;
    forbidden_ = percent_forbidden;
    FactorGraph graph;
    for (int32_t v = 0; v < variables; ++v) {
      graph.add_variable(costs(1 + below(options)), 1 + below(3));
    }
    for (int32_t v = 1; v < variables; ++v) {
      switch (shape) {
        case Shape::kTree: join(&graph, below(v), v); break;
        case Shape::kCycle:
          join(&graph, v, v - 1);
          if (v == variables - 1) join(&graph, 0, v);
          break;
        case Shape::kResidual:
          join(&graph, v - 1, v);
          if (v > 1) join(&graph, v - 2, v);
          break;
        case Shape::kDense:
          for (int32_t u = 0; u < v; ++u) join(&graph, u, v);
          break;
        case Shape::kHub:
          join(&graph, v, 0);
          join(&graph, v - 1, v);
          break;
      }
    }
    if (below(2)) join(&graph, below(variables), below(variables));  // a parallel edge, or a loop
    return graph;
  }

  Resources resources(const FactorGraph& graph) {
    Resources resources;
    const int32_t count = 1 + below(3);
    std::vector<double> most(count, 0);
    for (int32_t v = 0; v < graph.variables(); ++v) {
      resources.uses.emplace_back();
      if (below(4) == 0) continue;
      for (int32_t i = 0; i < graph.options(v) * count; ++i) resources.uses[v].push_back(below(20));
      for (int32_t i = 0; i < count; ++i) most[i] += 20;
    }
    for (const double sum : most) resources.limits.push_back(std::floor(sum * (20 + below(50)) / 100));
    return resources;
  }

 private:
  double cost() {
    if (below(100) < forbidden_) return kInfinity;
    return costs_ == Costs::kReal ? below(1 << 20) * 1e-6 - 0.3 : below(4) - 1;
  }
  std::vector<double> costs(int32_t count) {
    std::vector<double> costs;
    for (int32_t i = 0; i < count; ++i) costs.push_back(cost());
    return costs;
  }
  void join(FactorGraph* graph, int32_t a, int32_t b) {
    CostMatrix matrix(graph->options(a), graph->options(b), costs(graph->options(a) * graph->options(b)));
    graph->add_edge(a, b, std::move(matrix), 1 + below(2));
  }

  std::mt19937 random_;
  Costs costs_ = Costs::kReal;
  int32_t forbidden_ = 0;
};

// The least cost within the limits, of all choices; +infinity if there is none.
inline double exhaustive(const FactorGraph& graph, const Resources* resources = nullptr) {
  std::vector<int32_t> choice(graph.variables(), 0);
  double least = kInfinity;
  for (;;) {
    bool fits = true;
    for (size_t k = 0; resources && k < resources->limits.size(); ++k) {
      double used = 0;
      for (int32_t v = 0; v < graph.variables(); ++v) {
        if (resources->uses[v].empty()) continue;
        used += resources->uses[v][choice[v] * resources->limits.size() + k];
      }
      fits = fits && used <= resources->limits[k];
    }
    if (fits) least = std::min(least, graph.cost(choice));
    int32_t v = 0;
    while (v < graph.variables() && ++choice[v] == graph.options(v)) choice[v++] = 0;
    if (v == graph.variables()) return least;
  }
}

inline void check(const FactorGraph& graph, const Solution& solution, double least) {
  INFO("cost " << solution.cost << ", bound " << solution.lower_bound << ", least " << least);
  const double slack = least < kInfinity ? 1e-7 : 0;
  if (least < kInfinity) {
    REQUIRE(solution.lower_bound <= least + slack);
    REQUIRE(solution.cost >= least - slack);
  }
  if (solution.feasible()) {
    REQUIRE(graph.cost(solution.choice) == solution.cost);
    REQUIRE(solution.lower_bound <= solution.cost);
  } else {
    REQUIRE(solution.cost == kInfinity);
  }
  if (!solution.exact) return;
  REQUIRE(solution.feasible() == (least < kInfinity));
  REQUIRE(solution.gap() == (solution.feasible() ? 0 : kInfinity));
  if (solution.feasible()) REQUIRE(std::fabs(solution.cost - least) <= slack);
}

inline bool same(const Solution& a, const Solution& b) {
  return a.choice == b.choice && a.cost == b.cost && a.lower_bound == b.lower_bound && a.exact == b.exact &&
         a.steps == b.steps && a.sweeps == b.sweeps && a.branches == b.branches;
}

// Figures of the design note: `moai_tests "[.large]" -d yes -s`.
inline FactorGraph large_chain(int32_t variables, int32_t options, int32_t every) {
  RandomGraph random(1);
  const auto costs = [&](int32_t count) {
    std::vector<double> costs;
    for (int32_t i = 0; i < count; ++i) costs.push_back(random.below(1000000) * 1e-6);
    return costs;
  };
  std::vector<CostMatrix> matrices;
  for (int32_t m = 0; m < 8; ++m) matrices.emplace_back(options, options, costs(options * options));
  FactorGraph graph;
  for (int32_t v = 0; v < variables; ++v) {
    graph.add_variable(costs(options));
    if (v > 0) graph.add_edge(v - 1, v, matrices[v % 8]);
    if (v > 1 && v % every == 0) graph.add_edge(v - 2, v, matrices[(v + 3) % 8]);
  }
  return graph;
}

}  // namespace moai::plan
