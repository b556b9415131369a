#include "plan/solver/repair.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <tuple>
#include <utility>

namespace moai::plan {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kTolerance = 1e-9;
constexpr size_t kShareAtATime = 16;
constexpr std::pair<bool, double> kUseless{true, kInfinity};

}  // namespace

Repair::Repair(const Pairwise& problem, const Resources& resources)
    : problem_(problem), resources_(resources), edges_(problem.unary.size()), costs_(problem.unary) {
  for (const double limit : resources.limits) scale_.push_back(limit > 0 ? limit : 1);
  for (size_t e = 0; e < problem.edges.size(); ++e) {
    edges_[problem.edges[e].a].push_back(static_cast<int32_t>(e));
    edges_[problem.edges[e].b].push_back(static_cast<int32_t>(e));
  }
}

void Repair::set(const std::vector<int32_t>& choice) {
  choice_ = choice;
  used_.assign(resources_.limits.size(), 0);
  for (int32_t v = 0; v < problem_.variables(); ++v) {
    look_around(v);
    if (resources_.uses[v].empty()) continue;
    const double* row = resources_.uses[v].data() + static_cast<ptrdiff_t>(choice[v]) * used_.size();
    for (size_t k = 0; k < used_.size(); ++k) used_[k] += row[k];
  }
  cost_ = problem_.cost(choice);
  excess_ = excess_after(0, choice[0]);
}

void Repair::look_around(int32_t variable) {
  std::vector<double>& costs = costs_[variable];
  costs = problem_.unary[variable];
  for (const int32_t e : edges_[variable]) {
    const Pairwise::Edge& edge = problem_.edges[e];
    const auto columns = static_cast<size_t>(problem_.options(edge.b));
    const bool is_a = edge.a == variable;
    const double* at = edge.table->data() + (is_a ? static_cast<size_t>(choice_[edge.b])
                                                  : static_cast<size_t>(choice_[edge.a]) * columns);
    const size_t stride = is_a ? columns : 1;
    for (size_t i = 0; i < costs.size(); ++i) costs[i] += at[i * stride];
  }
}

double Repair::change_cost(int32_t variable, int32_t option) const {
  return costs_[variable][option] - costs_[variable][choice_[variable]];
}

double Repair::excess_after(int32_t variable, int32_t option) const {
  const std::vector<double>& uses = resources_.uses[variable];
  const size_t count = used_.size();
  double excess = 0;
  for (size_t k = 0; k < count; ++k) {
    const double more =
        uses.empty() ? 0
                     : uses[option * count + k] - uses[static_cast<size_t>(choice_[variable]) * count + k];
    const double over = (used_[k] + more - resources_.limits[k]) / scale_[k];
    if (over > kTolerance) excess += over;
  }
  return excess;
}

void Repair::change(int32_t variable, int32_t option) {
  cost_ += change_cost(variable, option);
  excess_ = excess_after(variable, option);
  const std::vector<double>& uses = resources_.uses[variable];
  const size_t count = used_.size();
  for (size_t k = 0; k < count && !uses.empty(); ++k) {
    used_[k] += uses[option * count + k] - uses[static_cast<size_t>(choice_[variable]) * count + k];
  }
  choice_[variable] = option;
  for (const int32_t e : edges_[variable]) {
    const Pairwise::Edge& edge = problem_.edges[e];
    look_around(edge.a == variable ? edge.b : edge.a);
  }
}

Repair::Rank Repair::rank(int32_t variable, int32_t option, double most) const {
  const double cost = change_cost(variable, option);
  if (option == choice_[variable] || !(cost_ + cost <= most)) return kUseless;
  const double removed = excess_ - excess_after(variable, option);
  if (removed <= kTolerance * excess_) return kUseless;
  return {cost > 0, cost > 0 ? cost / removed : cost};
}

bool Repair::repair(double most) {
  std::vector<std::tuple<Rank, int32_t, int32_t>> changes;  // the best of each variable
  while (excess_ > 0) {
    changes.clear();
    for (int32_t v = 0; v < problem_.variables(); ++v) {
      if (resources_.uses[v].empty()) continue;
      std::tuple<Rank, int32_t, int32_t> best{kUseless, v, 0};
      for (int32_t i = 0; i < problem_.options(v); ++i) best = std::min(best, {rank(v, i, most), v, i});
      if (std::get<0>(best) < kUseless) changes.push_back(best);
    }
    if (changes.empty()) return false;
    std::sort(changes.begin(), changes.end());
    // Some at a time: looking takes longer than changing. What has become worse by now waits.
    const size_t at_a_time = 1 + changes.size() / kShareAtATime;
    const Rank worst = std::get<0>(changes[std::min(at_a_time, changes.size() - 1)]);
    for (size_t n = 0; n < at_a_time && excess_ > 0; ++n) {
      const auto [unused, v, i] = changes[n];
      if (n == 0 || rank(v, i, most) <= worst) change(v, i);
    }
  }
  return true;
}

// One pass of single changes that gain and keep the limits.
bool Repair::gain() {
  bool any = false;
  for (int32_t v = 0; v < problem_.variables(); ++v) {
    int32_t best = -1;
    double least = -kTolerance * std::fabs(cost_);
    for (int32_t i = 0; i < problem_.options(v); ++i) {
      const double cost = change_cost(v, i);
      if (cost >= least || excess_after(v, i) > 0) continue;
      least = cost;
      best = i;
    }
    if (best < 0) continue;
    change(v, best);
    any = true;
  }
  return any;
}

void Repair::improve(int32_t forced) {
  while (gain()) {
  }
  std::vector<Change> changes;
  for (int32_t v = 0; v < problem_.variables(); ++v) {
    for (int32_t i = 0; i < problem_.options(v); ++i) {
      const double cost = change_cost(v, i);
      if (cost < 0) changes.push_back({v, i, cost});
    }
  }
  std::sort(changes.begin(), changes.end(), [](const Change& a, const Change& b) {
    return std::tie(a.cost, a.variable, a.option) < std::tie(b.cost, b.variable, b.option);
  });
  if (changes.size() > static_cast<size_t>(forced)) changes.resize(forced);
  for (const Change& forced_change : changes) {
    const std::vector<int32_t> before = choice_;
    const double cost = cost_;
    change(forced_change.variable, forced_change.option);
    const bool repaired = repair(cost);
    if (repaired) {
      while (gain()) {
      }
    }
    if (!repaired || cost_ >= cost - kTolerance * std::fabs(cost)) set(before);
  }
}

}  // namespace moai::plan
