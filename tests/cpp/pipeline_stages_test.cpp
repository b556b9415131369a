#include <algorithm>
#include <cstdint>
#include <limits>
#include <random>
#include <tuple>
#include <vector>

#include "catch.h"
#include "ir/error.h"
#include "plan/pipeline/stages.h"

namespace moai::plan {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Small whole numbers, so that sums are exact and ties are many.
StageProblem random_problem(std::mt19937* random) {
  const auto below = [&](int32_t end) { return static_cast<int32_t>((*random)() % end); };
  StageProblem problem;
  const int32_t positions = 1 + below(9);
  const int32_t stages = 1 + below(std::min(positions, 5));
  const int32_t largest_cut = below(2) ? 1 : 1 + below(6);
  for (int32_t i = 0; i < positions; ++i) {
    problem.seconds.push_back(below(6));
    problem.state_bytes.push_back(below(5));
    problem.activation_bytes.push_back(below(4));
    problem.cut_seconds.push_back(below(largest_cut));
  }
  problem.in_flight = in_flight_1f1b(stages, 1 + below(6));
  const int32_t limit = below(3) ? 2 + below(30) : 1000;
  for (int32_t k = 0; k < stages; ++k) problem.limit_bytes.push_back(limit + below(6));
  return problem;
}

// What `begins` makes of a problem, from its definition.
StageCut evaluate(const StageProblem& problem, const std::vector<int32_t>& begins) {
  StageCut cut;
  cut.begins = begins;
  cut.fits = true;
  const size_t n = problem.seconds.size();
  for (size_t k = 0; k < begins.size(); ++k) {
    const size_t end = k + 1 < begins.size() ? begins[k + 1] : n;
    double seconds = begins[k] > 0 ? problem.cut_seconds[begins[k]] : 0;
    if (end < n) seconds += problem.cut_seconds[end];
    double bytes = 0;
    for (size_t i = begins[k]; i < end; ++i) {
      seconds += problem.seconds[i];
      bytes += problem.state_bytes[i] + problem.in_flight[k] * problem.activation_bytes[i];
    }
    cut.seconds.push_back(seconds);
    cut.bytes.push_back(bytes);
    cut.fits = cut.fits && bytes <= problem.limit_bytes[k];
  }
  return cut;
}

double largest(const std::vector<double>& values) { return *std::max_element(values.begin(), values.end()); }

double largest_excess(const StageProblem& problem, const StageCut& cut) {
  double most = -kInfinity;
  for (size_t k = 0; k < cut.bytes.size(); ++k) most = std::max(most, cut.bytes[k] - problem.limit_bytes[k]);
  return most;
}

double total_cut_seconds(const StageProblem& problem, const std::vector<int32_t>& begins) {
  double total = 0;
  for (size_t k = 1; k < begins.size(); ++k) total += problem.cut_seconds[begins[k]];
  return total;
}

template <typename Visit>
void each_cut(int32_t positions, size_t stages, std::vector<int32_t>* begins, Visit visit) {
  if (begins->size() == stages) return visit(*begins);
  for (int32_t next = begins->back() + 1; next < positions; ++next) {
    begins->push_back(next);
    each_cut(positions, stages, begins, visit);
    begins->pop_back();
  }
}

TEST_CASE("stages_equal_exhaustive_search") {
  std::mt19937 random(5);
  int32_t fit = 0;
  int32_t misfit = 0;
  for (int32_t trial = 0; trial < 6000; ++trial) {
    const StageProblem problem = random_problem(&random);
    using Key = std::tuple<double, double, std::vector<int32_t>>;
    Key best{kInfinity, kInfinity, {}};
    double least_excess = kInfinity;
    std::vector<int32_t> begins{0};
    each_cut(static_cast<int32_t>(problem.seconds.size()), problem.limit_bytes.size(), &begins,
             [&](const std::vector<int32_t>& at) {
               const StageCut cut = evaluate(problem, at);
               least_excess = std::min(least_excess, largest_excess(problem, cut));
               if (cut.fits) {
                 best = std::min(best, Key{largest(cut.seconds), total_cut_seconds(problem, at), at});
               }
             });
    const StageCut cut = cut_stages(problem);
    INFO("trial " << trial);
    const StageCut expected = evaluate(problem, cut.begins);
    REQUIRE(cut.seconds == expected.seconds);
    REQUIRE(cut.bytes == expected.bytes);
    REQUIRE(cut.fits == (std::get<0>(best) < kInfinity));
    if (cut.fits) {
      REQUIRE(expected.fits);
      REQUIRE(cut.begins == std::get<2>(best));
      ++fit;
    } else {
      REQUIRE(largest_excess(problem, cut) == least_excess);
      ++misfit;
    }
  }
  CHECK(fit > 1000);
  CHECK(misfit > 500);
}

TEST_CASE("equal_layers_are_cut_evenly_and_a_heavy_head_takes_fewer") {
  StageProblem problem;
  problem.seconds.assign(3200, 1);
  problem.seconds.back() = 100;
  problem.state_bytes.assign(3200, 1);
  problem.activation_bytes.assign(3200, 1);
  problem.cut_seconds.assign(3200, 0);
  problem.limit_bytes.assign(4, 1e9);
  problem.in_flight = in_flight_1f1b(4, 8);
  const StageCut cut = cut_stages(problem);
  CHECK(largest(cut.seconds) == 825);  // of 3,299 seconds
  CHECK(3200 - cut.begins.back() <= 725 + 1);
  CHECK(3200 - cut.begins.back() >= 725 - 1);
}

TEST_CASE("memory_in_flight_moves_layers_to_later_stages") {
  StageProblem problem;
  problem.seconds.assign(10, 1);
  problem.state_bytes.assign(10, 0);
  problem.activation_bytes.assign(10, 1);
  problem.cut_seconds.assign(10, 0);
  problem.limit_bytes = {8, 8};
  problem.in_flight = in_flight_1f1b(2, 4);
  const StageCut cut = cut_stages(problem);
  CHECK(cut.begins == std::vector<int32_t>{0, 4});  // 4 layers twice, 6 once
  CHECK(cut.bytes == std::vector<double>{8, 6});
}

TEST_CASE("a_line_that_does_not_fit_names_the_stage_and_its_bytes") {
  StageProblem problem;
  problem.seconds.assign(4, 1);
  problem.state_bytes.assign(4, 10);
  problem.activation_bytes.assign(4, 1);
  problem.cut_seconds.assign(4, 0);
  problem.limit_bytes = {20, 20};
  problem.in_flight = in_flight_1f1b(2, 4);
  const StageCut cut = cut_stages(problem);
  CHECK_FALSE(cut.fits);
  CHECK_THROWS_WITH(require_fits(problem, cut),
                    ContainsSubstring("no cut into 2 stages fits: at best stage 0 holds 24 bytes of 20") &&
                        ContainsSubstring("positions 0 to 1, and 2 micro-batches in flight") &&
                        ContainsSubstring("would fit: 4 bytes more"));
}

TEST_CASE("stages_refuse_problems_that_make_no_sense") {
  StageProblem good;
  good.seconds = good.state_bytes = good.activation_bytes = good.cut_seconds = {1, 1};
  good.limit_bytes = {10};
  good.in_flight = {1};
  CHECK(cut_stages(good).fits);
  StageProblem bad = good;
  bad.cut_seconds.pop_back();
  CHECK_THROWS_WITH(cut_stages(bad), ContainsSubstring("cut_seconds of 1 positions, seconds of 2"));
  bad = good;
  bad.seconds[1] = -1;
  CHECK_THROWS_WITH(cut_stages(bad), ContainsSubstring("seconds of position 1 is -1"));
  bad = good;
  bad.limit_bytes = {1, 1, 1};
  CHECK_THROWS_WITH(cut_stages(bad), ContainsSubstring("2 positions cannot be cut into 3 stages"));
  bad = good;
  bad.in_flight = {1, 1};
  CHECK_THROWS_WITH(cut_stages(bad), ContainsSubstring("in_flight of 2 stages, limits of 1"));
  bad = good;
  bad.in_flight = {-1};
  CHECK_THROWS_WITH(cut_stages(bad), ContainsSubstring("stage 0 has -1 micro-batches in flight"));
}

}  // namespace
}  // namespace moai::plan
