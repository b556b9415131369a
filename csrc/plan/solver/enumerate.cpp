#include "plan/solver/enumerate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "plan/solver/exact.h"
#include "plan/solver/order.h"

namespace moai::plan {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kTolerance = 1e-9;
constexpr double kMostEntries = 1 << 22;  // of tables, 8 bytes each

class Walk {
 public:
  Walk(const Pairwise& problem, const Resources& resources, const Elimination& elimination,
       double most_excess, double cost, double steps)
      : problem_(problem),
        resources_(resources),
        elimination_(elimination),
        variables_(elimination.from_last()),
        most_excess_(most_excess),
        cost_(cost),
        steps_(steps),
        choice_(problem.unary.size(), 0) {
    const size_t limits = resources.limits.size();
    least_rest_.assign((variables_.size() + 1) * limits, 0.0);
    for (size_t d = variables_.size(); d-- > 0;) {
      const auto& uses = resources.uses[variables_[d]];
      for (size_t k = 0; k < limits; ++k) {
        double least = uses.empty() ? 0 : kInfinity;
        for (size_t at = k; at < uses.size(); at += limits) least = std::min(least, uses[at]);
        least_rest_[d * limits + k] = least_rest_[(d + 1) * limits + k] + least;
      }
    }
  }

  Enumeration run() {
    std::vector<double> used(resources_.limits.size(), 0.0);
    go(0, 0, used);
    found_.is_complete = steps_ >= 0;
    return std::move(found_);
  }

 private:
  void go(size_t depth, double excess, const std::vector<double>& used) {
    const size_t limits = used.size();
    for (size_t k = 0; k < limits; ++k) {
      const double limit = resources_.limits[k];
      if (used[k] + least_rest_[depth * limits + k] > limit + kTolerance * (limit > 0 ? limit : 1)) return;
    }
    if (depth == variables_.size()) {
      const double cost = problem_.cost(choice_);
      if (cost >= cost_) return;
      most_excess_ -= cost_ - cost;  // what is cheaper than this one exceeds by less
      cost_ = cost;
      found_.choice = choice_;
      return;
    }
    const int32_t variable = variables_[depth];
    const std::vector<double> costs = elimination_.costs_given(variable, choice_);
    std::vector<int32_t> order(costs.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return costs[a] < costs[b]; });
    const double least = costs[order[0]];
    for (const int32_t i : order) {
      if (--steps_ < 0 || least == kInfinity || excess + costs[i] - least > most_excess_) return;
      choice_[variable] = i;
      std::vector<double> next = used;
      const auto& uses = resources_.uses[variable];
      for (size_t k = 0; k < limits && !uses.empty(); ++k)
        next[k] += uses[static_cast<size_t>(i) * limits + k];
      go(depth + 1, excess + costs[i] - least, next);
    }
  }

  const Pairwise& problem_;
  const Resources& resources_;
  const Elimination& elimination_;
  std::vector<int32_t> variables_;
  std::vector<double> least_rest_;  // by depth and resource: of all variables from there on
  double most_excess_;
  double cost_;
  double steps_;
  std::vector<int32_t> choice_;
  Enumeration found_;
};

}  // namespace

Enumeration enumerate_within(const Pairwise& problem, const Resources& resources,
                             const std::vector<double>& prices, double cost, double steps) {
  Pairwise priced = problem;
  const size_t limits = resources.limits.size();
  double worth = 0;
  for (size_t k = 0; k < limits; ++k) worth += prices[k] * resources.limits[k];
  for (int32_t v = 0; v < priced.variables(); ++v) {
    const auto& uses = resources.uses[v];
    for (size_t at = 0; at < uses.size(); ++at)
      priced.unary[v][at / limits] += prices[at % limits] * uses[at];
  }
  const EliminationOrder order =
      order_elimination(priced, {kMostEntries, kMostEntries, steps, priced.variables()});
  if (order.order.size() < priced.unary.size()) return {};
  const Elimination elimination(priced, order.order);
  if (elimination.blocked() >= 0) return {true, {}};
  std::vector<int32_t> least(priced.unary.size());
  elimination.complete(&least);
  // Sums in another order differ by a little.
  const double rounding = kTolerance * (std::fabs(cost) + std::fabs(worth));
  const double most_excess = cost + worth - priced.cost(least) + rounding;
  return Walk(problem, resources, elimination, most_excess, cost, steps).run();
}

}  // namespace moai::plan
