#include "plan/solver/solve_within.h"

#include <cstdint>
#include <vector>

#include "catch.h"
#include "ir/error.h"
#include "random_factor_graph.h"

namespace moai::plan {
namespace {

TEST_CASE("bounded_problems_keep_their_limits") {
  int32_t exact = 0;
  int32_t feasible = 0;
  int32_t missed = 0;
  double gaps = 0;
  for (const Shape shape : {Shape::kTree, Shape::kCycle, Shape::kResidual, Shape::kDense, Shape::kHub}) {
    for (uint32_t seed = 0; seed < 300; ++seed) {
      RandomGraph random(seed);
      const int32_t variables = 1 + random.below(7);
      const FactorGraph graph = random.make(shape, variables, 4, 10 * random.below(2));
      const Resources resources = random.resources(graph);
      const double least = exhaustive(graph, &resources);
      const WithinSolution within = solve_within(graph, resources);
      INFO("shape " << static_cast<int>(shape) << ", seed " << seed);
      check(graph, within.solution, least);
      if (within.blocked >= 0) REQUIRE(least == kInfinity);
      feasible += least < kInfinity;
      missed += least < kInfinity && !within.solution.feasible();
      exact += within.solution.exact && within.solution.feasible();
      if (!within.solution.feasible()) continue;
      gaps += within.solution.cost - least;
      for (size_t k = 0; k < resources.limits.size(); ++k) {
        double used = 0;
        for (int32_t v = 0; v < graph.variables(); ++v) {
          if (resources.uses[v].empty()) continue;
          used += resources.uses[v][within.solution.choice[v] * resources.limits.size() + k];
        }
        REQUIRE(used == within.used[k]);
        REQUIRE(used <= resources.limits[k]);
      }
    }
  }
  UNSCOPED_INFO(feasible << " feasible, " << exact << " proven, " << missed << " missed, " << gaps
                         << " above the least in all");
  CHECK(exact == feasible);
  CHECK(missed == 0);
}

// Few choices that use much: prices alone leave a gap, which halves close by and by.
TEST_CASE("halves_of_what_a_variable_uses_bound_the_whole") {
  double open = 0, halved = 0;
  for (const Shape shape : {Shape::kTree, Shape::kCycle, Shape::kDense}) {
    for (uint32_t seed = 0; seed < 200; ++seed) {
      RandomGraph random(seed);
      const FactorGraph graph = random.make(shape, 3 + random.below(4), 4, 10 * random.below(2));
      const Resources resources = random.resources(graph);
      const double least = exhaustive(graph, &resources);
      WithinOptions options;
      options.enumerate_steps = 0;
      const WithinSolution priced = solve_within(graph, resources, options);
      options.halvings = 4;
      const WithinSolution within = solve_within(graph, resources, options);
      INFO("shape " << static_cast<int>(shape) << ", seed " << seed);
      check(graph, within.solution, least);
      REQUIRE(within.solution.feasible() == priced.solution.feasible());
      if (!priced.solution.feasible()) continue;
      CHECK(within.solution.lower_bound >= priced.solution.lower_bound);
      CHECK(within.solution.cost <= priced.solution.cost);
      open += priced.solution.cost - priced.solution.lower_bound;
      halved += within.solution.cost - within.solution.lower_bound;
    }
  }
  CHECK(open > 0);
  CHECK(halved < 0.5 * open);
}

TEST_CASE("a_limit_that_nothing_keeps_is_named") {
  FactorGraph graph;
  graph.add_variable({1, 0}, 1, "exp_avg");
  graph.add_variable({1, 0}, 1, "weight");
  const Resources resources{{10}, {"memory after forward"}, {{8, 9}, {4, 6}}};
  const WithinSolution within = solve_within(graph, resources);
  REQUIRE(within.blocked == 0);
  REQUIRE_THROWS_WITH(require_feasible(graph, resources, within),
                      ContainsSubstring("nothing fits in 10 of memory after forward") &&
                          ContainsSubstring("exp_avg: 8") && ContainsSubstring("would fit: 12"));
}

TEST_CASE("solving_within_limits_twice_gives_the_same") {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    RandomGraph random(seed);
    const FactorGraph graph = random.make(Shape::kDense, 9, 5, 5);
    const Resources resources = random.resources(graph);
    const WithinSolution once = solve_within(graph, resources);
    const WithinSolution again = solve_within(graph, resources);
    REQUIRE((same(once.solution, again.solution) && once.multipliers == again.multipliers));
  }
}

// A graph too wide to be proven, under limits that nobody reaches: other prices could tell nothing.
TEST_CASE("where_no_limit_binds_an_open_gap_is_not_asked_for_again_and_again") {
  int32_t open = 0;
  for (uint32_t seed = 0; seed < 20; ++seed) {
    RandomGraph random(seed);
    const FactorGraph graph = random.make(Shape::kDense, 24, 5, 0);
    Resources resources{{1e9, 1e9}, {"early", "late"}, {}};
    for (int32_t v = 0; v < graph.variables(); ++v)
      resources.uses.emplace_back(static_cast<size_t>(graph.options(v)) * 2, 1.0);
    WithinOptions options;
    options.solve.exact_steps = 0;
    options.solve.branches = 0;
    options.enumerate_steps = 0;
    const WithinSolution within = solve_within(graph, resources, options);
    const Solution alone = solve(graph, options.solve);
    INFO("seed " << seed);
    CHECK(within.solution.cost <= alone.cost);
    CHECK(within.solution.lower_bound >= alone.lower_bound * (1 - 1e-9));
    CHECK(within.rounds < 8);
    open += !within.solution.exact;
  }
  CHECK(open > 10);
}

TEST_CASE("limits_that_only_pairs_exceed_are_proven_so") {
  FactorGraph graph;
  graph.add_variable({0, 0}, 1, "a");
  graph.add_variable({0, 0}, 1, "b");
  graph.add_edge(0, 1, CostMatrix(2, 2, {0, 1, 1, 0}));
  // Each limit alone can be kept; both together cannot, not even by halves.
  const Resources resources{{4, 4}, {"early", "late"}, {{5, 0, 0, 5}, {2, 2, 2, 2}}};
  const WithinSolution within = solve_within(graph, resources);
  REQUIRE(within.blocked < 0);
  REQUIRE(within.solution.exact);
  REQUIRE(!within.solution.feasible());
  REQUIRE_THROWS_WITH(require_feasible(graph, resources, within),
                      ContainsSubstring("nothing keeps all limits") && ContainsSubstring("limit 4"));
}

TEST_CASE("large_chain_within_limits", "[.large]") {
  const FactorGraph graph = large_chain(500, 30, 2);
  RandomGraph random(3);
  Resources resources;
  resources.limits.assign(4, 500 * 300);
  for (int32_t v = 0; v < graph.variables(); ++v) {
    resources.uses.emplace_back();
    for (int32_t i = 0; i < 4 * graph.options(v); ++i) resources.uses[v].push_back(random.below(1000));
  }
  const WithinSolution within = solve_within(graph, resources);
  INFO("cost " << within.solution.cost << ", bound " << within.solution.lower_bound << ", " << within.rounds
               << " rounds");
  CHECK(within.solution.gap() < 0.01);
}

}  // namespace
}  // namespace moai::plan
