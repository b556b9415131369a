#include "plan/solver/solve.h"

#include <cstdint>
#include <vector>

#include "catch.h"
#include "ir/error.h"
#include "random_factor_graph.h"

namespace moai::plan {
namespace {

// Options under which elimination is never used to finish.
SolveOptions dual_only(int32_t branches) {
  SolveOptions options;
  options.exact_steps = 0;
  options.branches = branches;
  return options;
}

// Few enough entries that the dual has to rule options out before elimination fits.
SolveOptions small_tables(double entries) {
  SolveOptions options;
  options.table_entries = entries;
  return options;
}

struct Tally {
  int32_t problems = 0;
  int32_t exact = 0;
  int32_t missed = 0;  // no choice found though there is one
};

// Solves random graphs of every shape, and checks each against all its choices.
Tally check_all(const SolveOptions& options, uint32_t seeds) {
  Tally tally;
  for (const Shape shape : {Shape::kTree, Shape::kCycle, Shape::kResidual, Shape::kDense, Shape::kHub}) {
    for (uint32_t seed = 0; seed < seeds; ++seed) {
      RandomGraph random(seed);
      const int32_t variables = 1 + random.below(7);
      const FactorGraph graph = random.make(shape, variables, variables > 5 ? 3 : 4, 15 * random.below(4));
      const double least = exhaustive(graph);
      const Solution solution = solve(graph, options);
      INFO("shape " << static_cast<int>(shape) << ", seed " << seed);
      check(graph, solution, least);
      ++tally.problems;
      tally.exact += solution.exact;
      tally.missed += least < kInfinity && !solution.feasible();
    }
  }
  return tally;
}

TEST_CASE("elimination_equals_exhaustive_search") {
  const Tally tally = check_all({}, 800);
  CHECK(tally.exact == tally.problems);
}

TEST_CASE("search_with_small_tables_equals_exhaustive_search") {
  for (const double entries : {0.0, 3.0, 9.0}) {
    const Tally tally = check_all(small_tables(entries), 300);
    CHECK(tally.missed == 0);
    CHECK(tally.exact == tally.problems);
  }
}

TEST_CASE("the_dual_never_exceeds_the_optimum") {
  const Tally root = check_all(dual_only(0), 800);
  const Tally branched = check_all(dual_only(1000), 400);
  CHECK(branched.missed == 0);
  CHECK(branched.exact == branched.problems);
  CHECK(root.exact > root.problems / 2);
  UNSCOPED_INFO("dual alone: " << root.exact << " of " << root.problems << " proven, " << root.missed
                               << " missed");
}

TEST_CASE("the_dual_is_exact_on_trees") {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    RandomGraph random(seed);
    const FactorGraph graph = random.make(Shape::kTree, 40, 6, 0);
    INFO("seed " << seed);
    const Solution by_dual = solve(graph, dual_only(0));
    const Solution exact = solve(graph);
    REQUIRE(by_dual.cost == Approx(exact.cost));
    REQUIRE(by_dual.lower_bound == Approx(exact.cost));
  }
}

TEST_CASE("an_infeasible_problem_names_a_variable") {
  FactorGraph graph;
  const int32_t a = graph.add_variable({0, 1}, 1, "embedding");
  const int32_t b = graph.add_variable({0, 1}, 1, "lm_head");
  const int32_t c = graph.add_variable({0, 1}, 1, "loss");
  const CostMatrix differ(2, 2, {kInfinity, 0, 0, kInfinity});
  graph.add_edge(a, b, differ);
  graph.add_edge(b, c, differ);
  REQUIRE(solve(graph).cost == 1);
  graph.add_edge(a, c, differ);  // three variables of two values cannot all differ
  for (const SolveOptions& options : {SolveOptions{}, dual_only(10), small_tables(0)}) {
    const Solution solution = solve(graph, options);
    REQUIRE(solution.exact);
    REQUIRE(!solution.feasible());
    REQUIRE(solution.blocked >= 0);
    REQUIRE_THROWS_WITH(require_feasible(graph, solution),
                        ContainsSubstring("nothing is left for " + graph.name(solution.blocked)) &&
                            ContainsSubstring("would work"));
  }
  graph.set_total_costs(b, {kInfinity, kInfinity});
  REQUIRE(solve(graph).blocked == b);
}

TEST_CASE("a_warm_solver_equals_a_cold_one") {
  for (const SolveOptions& options : {SolveOptions{}, small_tables(4)}) {
    for (uint32_t seed = 0; seed < 100; ++seed) {
      RandomGraph random(seed);
      FactorGraph graph = random.make(Shape::kResidual, 12, 5, 10);
      Solver warm(graph, options);
      for (int32_t round = 0; round < 4; ++round) {
        const int32_t v = random.below(graph.variables());
        std::vector<double> costs = graph.total_costs(v);
        for (double& cost : costs) cost = random.below(5) ? random.below(100) * 0.01 : kInfinity;
        graph.set_total_costs(v, costs);
        warm.set_total_costs(v, costs);
        const Solution from_warm = warm.solve();
        const Solution from_cold = solve(graph, options);
        INFO("seed " << seed << ", round " << round);
        REQUIRE(from_cold.exact);
        REQUIRE(from_warm.exact);
        REQUIRE(from_warm.feasible() == from_cold.feasible());
        if (from_cold.feasible()) REQUIRE(from_warm.cost == Approx(from_cold.cost).margin(1e-7));
      }
    }
  }
}

TEST_CASE("a_start_is_never_made_worse") {
  SolveOptions hasty = dual_only(0);
  hasty.sweeps = 1;
  hasty.blocks = 0;
  for (uint32_t seed = 0; seed < 200; ++seed) {
    RandomGraph random(seed);
    const FactorGraph graph = random.make(Shape::kDense, 8, 5, 0);
    std::vector<int32_t> start;
    for (int32_t v = 0; v < graph.variables(); ++v) start.push_back(random.below(graph.options(v)));
    const Solution best = solve(graph);
    REQUIRE(solve(graph, hasty, start).cost <= graph.cost(start));
    REQUIRE(solve(graph, hasty, best.choice).cost == Approx(best.cost).margin(1e-7));
  }
}

TEST_CASE("solving_twice_gives_the_same") {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    RandomGraph random(seed);
    const FactorGraph graph = random.make(Shape::kDense, 9, 5, 5);
    for (const SolveOptions& options : {SolveOptions{}, dual_only(20), small_tables(100)}) {
      REQUIRE(same(solve(graph, options), solve(graph, options)));
    }
  }
}

TEST_CASE("ties_go_to_the_lowest_option") {
  FactorGraph graph;
  for (int32_t v = 0; v < 4; ++v) graph.add_variable({0, 0, 0});
  for (int32_t v = 1; v < 4; ++v) graph.add_edge(v - 1, v, CostMatrix(3, 3, std::vector<double>(9, 0)));
  REQUIRE(solve(graph).choice == std::vector<int32_t>{0, 0, 0, 0});
}

TEST_CASE("repeats_and_shared_matrices_count_as_often_as_they_are_used") {
  const CostMatrix matrix(2, 2, {0, 3, 1, 5});
  FactorGraph graph;
  const int32_t a = graph.add_variable({1, 0}, 3);
  const int32_t b = graph.add_variable({2, 0});
  graph.add_edge(a, b, matrix, 2);
  graph.add_edge(b, a, matrix);
  REQUIRE(graph.cost({0, 1}) == 3 + 0 + 6 + 1);
  REQUIRE(graph.cost({1, 0}) == 0 + 2 + 2 + 3);
  REQUIRE(solve(graph).cost == exhaustive(graph));
}

TEST_CASE("a_large_residual_chain_is_exact") {
  // 600 layers of 24 options, a skip over every second, weights of three kinds and one shared scalar.
  RandomGraph random(7);
  FactorGraph graph;
  std::vector<CostMatrix> matrices;
  for (int32_t m = 0; m < 3; ++m) {
    std::vector<double> costs;
    for (int32_t i = 0; i < 24 * 24; ++i) costs.push_back(random.below(1000) * 1e-3);
    matrices.emplace_back(24, 24, costs);
  }
  const int32_t scalar = graph.add_variable({0, 0.1});
  std::vector<double> to_scalar;
  for (int32_t i = 0; i < 48; ++i) to_scalar.push_back(random.below(10) * 1e-3);
  const CostMatrix with_scalar(24, 2, to_scalar);
  std::vector<int32_t> layers;
  for (int32_t v = 0; v < 600; ++v) {
    std::vector<double> costs;
    for (int32_t i = 0; i < 24; ++i) costs.push_back(random.below(1000) * 1e-3);
    layers.push_back(graph.add_variable(costs));
    if (v > 0) graph.add_edge(layers[v - 1], layers[v], matrices[v % 3]);
    if (v > 1 && v % 2 == 0) graph.add_edge(layers[v - 2], layers[v], matrices[0]);
    if (v % 5 == 0) graph.add_edge(layers[v], scalar, with_scalar);
  }
  const Solution solution = solve(graph);
  REQUIRE(solution.exact);
  const Solution by_dual = solve(graph, dual_only(0));
  REQUIRE(by_dual.cost >= solution.cost - 1e-7);
  REQUIRE(by_dual.lower_bound <= solution.cost + 1e-7);
  REQUIRE(by_dual.gap() < 0.1);  // of the linear relaxation: random costs are no friend of it
}

TEST_CASE("large_chain_with_every_second_skip", "[.large]") { CHECK(solve(large_chain(3000, 100, 2)).exact); }
TEST_CASE("large_chain_with_every_skip", "[.large]") { CHECK(solve(large_chain(3000, 100, 1)).exact); }

TEST_CASE("large_chain_of_many_options", "[.large]") {  // its tables do not fit
  const Solution solution = solve(large_chain(5000, 300, 2));
  INFO("cost " << solution.cost << ", bound " << solution.lower_bound << ", " << solution.sweeps
               << " sweeps");
  CHECK(solution.gap() < 0.25);
}

TEST_CASE("large_chain_with_random_skips", "[.large]") {  // too wide for elimination
  FactorGraph graph = large_chain(2000, 50, 2);
  RandomGraph random(2);
  const CostMatrix matrix = graph.edges()[0].costs;
  for (int32_t n = 0; n < 100; ++n) graph.add_edge(random.below(1000), 1000 + random.below(1000), matrix);
  const Solution solution = solve(graph);
  INFO("cost " << solution.cost << ", bound " << solution.lower_bound << ", " << solution.sweeps
               << " sweeps");
  CHECK(solution.gap() < 0.02);
}

}  // namespace
}  // namespace moai::plan
