#include "plan/solver/dual.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include "plan/solver/min_plus.h"

namespace moai::plan {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Relative: how far sums of the same numbers in another order may differ, with room to spare.
constexpr double kRounding = 1e-9;

}  // namespace

Dual::Dual(const Pairwise& problem)
    : problem_(&problem),
      unary_(problem.unary),
      edges_(problem.unary.size()),
      lower_(problem.unary.size(), 0),
      rounded_(problem.unary.size(), 0),
      rounded_cost_(kInfinity),
      bound_(-kInfinity),
      upper_(kInfinity) {
  size_t messages = 0;
  for (size_t e = 0; e < problem.edges.size(); ++e) {
    const Pairwise::Edge& edge = problem.edges[e];
    to_a_.push_back(messages);
    messages += problem.unary[edge.a].size();
    to_b_.push_back(messages);
    messages += problem.unary[edge.b].size();
    edges_[edge.b].push_back(static_cast<int32_t>(e));
    ++lower_[edge.b];
  }
  for (size_t e = 0; e < problem.edges.size(); ++e) {
    edges_[problem.edges[e].a].push_back(static_cast<int32_t>(e));
  }
  messages_.assign(messages, 0);
  size_t most = 0;
  for (const auto& costs : unary_) most = std::max(most, costs.size());
  reduced_.resize(most);
  part_.resize(most);
  rows_.resize(most);
}

bool Dual::sweep() { return pass(Way::kUp) && pass(Way::kDown); }

bool Dual::pass(Way way) {
  const int32_t count = problem_->variables();
  double bound = 0;
  for (int32_t k = 0; k < count; ++k) {
    const int32_t v = way == Way::kUp ? k : count - 1 - k;
    if (way == Way::kUp) round(v);
    collect(v);
    double least = 0;
    if (!take_least(v, &least)) {
      blocked_ = v;
      return false;
    }
    bound += least;
    // The chains through a variable: as many as edges on its busier side.
    const auto degree = static_cast<int32_t>(edges_[v].size());
    const double share = 1.0 / std::max({lower_[v], degree - lower_[v], 1});
    const int32_t first = way == Way::kUp ? lower_[v] : 0;
    const int32_t last = way == Way::kUp ? degree : lower_[v];
    for (int32_t n = first; n < last; ++n) {
      const auto e = static_cast<size_t>(edges_[v][n]);
      send(problem_->edges[e], e, v, share);
      const Pairwise::Edge& edge = problem_->edges[e];
      double* message = messages_.data() + (way == Way::kUp ? to_b_[e] : to_a_[e]);
      const int32_t length = problem_->options(way == Way::kUp ? edge.b : edge.a);
      const double lowest = *std::min_element(message, message + length);
      if (lowest == kInfinity) {
        blocked_ = v;
        return false;
      }
      for (int32_t i = 0; i < length; ++i) message[i] -= lowest;
      bound += lowest;
    }
  }
  // All costs are now spread over terms whose least values were counted above: on the way down each
  // variable and each edge once. On the way up the terms overlap.
  if (way == Way::kDown) bound_ = std::max(bound_, bound);
  if (way == Way::kUp) rounded_cost_ = problem_->cost(rounded_);
  return true;
}

void Dual::collect(int32_t variable) {
  const auto length = static_cast<int32_t>(unary_[variable].size());
  std::copy(unary_[variable].begin(), unary_[variable].end(), reduced_.begin());
  for (const int32_t e : edges_[variable]) {
    const size_t at = problem_->edges[e].a == variable ? to_a_[e] : to_b_[e];
    add_row(messages_.data() + at, length, reduced_.data());
  }
}

// Makes the least of a variable's reduced costs zero. What one exceeds zero by is what choosing the
// option costs over the bound on some chain, so where that is too much the option goes.
bool Dual::take_least(int32_t variable, double* least) {
  std::vector<double>& costs = unary_[variable];
  *least = *std::min_element(reduced_.begin(), reduced_.begin() + static_cast<ptrdiff_t>(costs.size()));
  if (*least == kInfinity) return false;
  const double slack = upper_ - bound_ + kRounding * (std::fabs(upper_) + std::fabs(bound_));
  const bool may_forbid = upper_ < kInfinity && bound_ > -kInfinity;
  for (size_t i = 0; i < costs.size(); ++i) {
    reduced_[i] -= *least;
    if (may_forbid && reduced_[i] > slack) reduced_[i] = kInfinity;
    if (reduced_[i] == kInfinity) costs[i] = kInfinity;
  }
  return true;
}

// The message from one end of an edge to the other: the least that this end and the edge cost.
void Dual::send(const Pairwise::Edge& edge, size_t at, int32_t from, double share) {
  const bool from_a = from == edge.a;
  const int32_t own = problem_->options(from);
  const int32_t columns = problem_->options(edge.b);
  const double* back = messages_.data() + (from_a ? to_a_[at] : to_b_[at]);
  const double* table = edge.table->data();
  if (from_a) {
    int32_t kept = 0;
    for (int32_t i = 0; i < own; ++i) {
      if (reduced_[i] == kInfinity) continue;
      const double shared = share * reduced_[i];
      part_[kept] = shared - back[i];
      rows_[kept++] = table + static_cast<ptrdiff_t>(i) * columns;
    }
    min_plus_rows(part_.data(), rows_.data(), kept, columns, messages_.data() + to_b_[at]);
    return;
  }
  for (int32_t j = 0; j < own; ++j) {
    const double shared = share * reduced_[j];
    part_[j] = reduced_[j] == kInfinity ? kInfinity : shared - back[j];
  }
  double* to = messages_.data() + to_a_[at];
  for (int32_t i = 0; i < problem_->options(edge.a); ++i) {
    to[i] = min_plus_row(table + static_cast<ptrdiff_t>(i) * columns, part_.data(), columns);
  }
}

// Chooses given the lower neighbours' choices, with what the higher ones say.
void Dual::round(int32_t variable) {
  const auto length = static_cast<int32_t>(unary_[variable].size());
  std::copy(unary_[variable].begin(), unary_[variable].end(), reduced_.begin());
  for (size_t n = 0; n < edges_[variable].size(); ++n) {
    const auto e = static_cast<size_t>(edges_[variable][n]);
    const Pairwise::Edge& edge = problem_->edges[e];
    const double* row = edge.a == variable
                            ? messages_.data() + to_a_[e]
                            : edge.table->data() + static_cast<ptrdiff_t>(rounded_[edge.a]) * length;
    add_row(row, length, reduced_.data());
  }
  rounded_[variable] =
      static_cast<int32_t>(std::min_element(reduced_.begin(), reduced_.begin() + length) - reduced_.begin());
}

void Dual::forbid(int32_t variable, int32_t option) { unary_[variable][option] = kInfinity; }

KeptOptions Dual::allowed() const {
  KeptOptions allowed(unary_.size());
  for (size_t v = 0; v < unary_.size(); ++v) {
    for (size_t i = 0; i < unary_[v].size(); ++i) {
      if (unary_[v][i] < kInfinity) allowed[v].push_back(static_cast<int32_t>(i));
    }
  }
  return allowed;
}

std::vector<double> Dual::message(size_t edge, int32_t variable) const {
  const auto first = messages_.begin() +
                     static_cast<ptrdiff_t>(variable == problem_->edges[edge].a ? to_a_[edge] : to_b_[edge]);
  return {first, first + problem_->options(variable)};
}

void Dual::set_message(size_t edge, int32_t variable, const std::vector<double>& values) {
  double* to = messages_.data() + (variable == problem_->edges[edge].a ? to_a_[edge] : to_b_[edge]);
  for (const double value : values) *to++ = std::isfinite(value) ? value : 0;
}

std::vector<double> Dual::reduced_costs(int32_t variable) {
  collect(variable);
  return {reduced_.begin(), reduced_.begin() + problem_->options(variable)};
}

}  // namespace moai::plan
