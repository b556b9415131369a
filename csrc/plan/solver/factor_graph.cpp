#include "plan/solver/factor_graph.h"

#include <cmath>
#include <limits>
#include <utility>

#include "ir/error.h"

namespace moai::plan {

namespace {

void check_costs(const std::vector<double>& costs) {
  for (const double cost : costs) {
    MOAI_ASSERT(cost > -std::numeric_limits<double>::infinity(), "a cost of ", cost);
  }
}

void check_repeat(double repeat) {
  MOAI_ASSERT(repeat > 0 && std::isfinite(repeat), "repeated ", repeat, " times");
}

}  // namespace

CostMatrix::CostMatrix(int32_t rows, int32_t columns, std::vector<double> values)
    : rows_(rows),
      columns_(columns),
      values_(std::make_shared<const std::vector<double>>(std::move(values))) {
  MOAI_ASSERT(rows > 0 && columns > 0 && values_->size() == static_cast<size_t>(rows) * columns, rows, " x ",
              columns, " costs, given ", values_->size());
  check_costs(*values_);
}

int32_t FactorGraph::add_variable(std::vector<double> costs, double repeat, std::string name) {
  MOAI_ASSERT(!costs.empty(), name, " has no option");
  check_repeat(repeat);
  check_costs(costs);
  for (double& cost : costs) cost *= repeat;
  costs_.push_back(std::move(costs));
  names_.push_back(std::move(name));
  return variables() - 1;
}

void FactorGraph::add_edge(int32_t a, int32_t b, CostMatrix costs, double repeat) {
  check(a);
  check(b);
  check_repeat(repeat);
  MOAI_ASSERT(costs.rows() == options(a) && costs.columns() == options(b), costs.rows(), " x ",
              costs.columns(), " costs for ", options(a), " options of ", name(a), " and ", options(b),
              " of ", name(b));
  edges_.push_back({a, b, std::move(costs), repeat});
}

void FactorGraph::set_total_costs(int32_t variable, std::vector<double> costs) {
  check(variable);
  MOAI_ASSERT(costs.size() == costs_[variable].size(), costs.size(), " costs for the ", options(variable),
              " options of ", name(variable));
  check_costs(costs);
  costs_[variable] = std::move(costs);
}

int32_t FactorGraph::options(int32_t variable) const {
  return static_cast<int32_t>(total_costs(variable).size());
}

const std::vector<double>& FactorGraph::total_costs(int32_t variable) const {
  check(variable);
  return costs_[variable];
}

std::string FactorGraph::name(int32_t variable) const {
  check(variable);
  return names_[variable].empty() ? concat("variable ", variable) : names_[variable];
}

double FactorGraph::cost(const std::vector<int32_t>& choice) const {
  MOAI_ASSERT(choice.size() == costs_.size(), choice.size(), " choices for ", costs_.size(), " variables");
  double total = 0;
  for (int32_t v = 0; v < variables(); ++v) {
    MOAI_ASSERT(choice[v] >= 0 && choice[v] < options(v), "option ", choice[v], " of ", name(v));
    total += costs_[v][choice[v]];
  }
  for (const Edge& edge : edges_) {
    const double cost = edge.costs.at(choice[edge.a], choice[edge.b]) * edge.repeat;
    total += cost;
  }
  return total;
}

void FactorGraph::check(int32_t variable) const {
  MOAI_ASSERT(variable >= 0 && variable < variables(), "variable ", variable, " of ", variables());
}

}  // namespace moai::plan
