#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace moai::plan {

// What a pair of options costs: rows are options of the first variable, columns of the second.
//
// Immutable and shared: copies cost a pointer, and edges that share a matrix (equal layers) share the
// solver's work on it too. +infinity forbids a pair.
class CostMatrix {
 public:
  // `values` is row-major. Trips MOAI_ASSERT on a wrong size, on NaN and on -infinity.
  CostMatrix(int32_t rows, int32_t columns, std::vector<double> values);

  int32_t rows() const { return rows_; }
  int32_t columns() const { return columns_; }
  const std::vector<double>& values() const { return *values_; }
  double at(int32_t row, int32_t column) const {
    return (*values_)[static_cast<size_t>(row) * static_cast<size_t>(columns_) + static_cast<size_t>(column)];
  }

 private:
  int32_t rows_;
  int32_t columns_;
  std::shared_ptr<const std::vector<double>> values_;
};

// A choice of one option per variable, whose cost is a sum over variables and over pairs of them:
// a pairwise Markov random field. Costs may have any unit, and any sign; they are finite or +infinity.
class FactorGraph {
 public:
  struct Edge {
    int32_t a;
    int32_t b;
    CostMatrix costs;
    double repeat;
  };

  // Adds a variable and returns its index. `repeat` is how often its costs count: how many equal
  // variables it stands for. The name is for messages.
  int32_t add_variable(std::vector<double> costs, double repeat = 1, std::string name = "");

  // Adds a cost of a pair; several edges between the same variables add up. `a == b` is allowed.
  void add_edge(int32_t a, int32_t b, CostMatrix costs, double repeat = 1);

  // Replaces a variable's costs by ones in which `repeat` has been counted already.
  void set_total_costs(int32_t variable, std::vector<double> costs);

  int32_t variables() const { return static_cast<int32_t>(costs_.size()); }
  int32_t options(int32_t variable) const;
  // With `repeat` counted.
  const std::vector<double>& total_costs(int32_t variable) const;
  const std::vector<Edge>& edges() const { return edges_; }
  // As given, or "variable 7".
  std::string name(int32_t variable) const;

  // Of one option per variable: summed variables first, then edges, in the order they were added.
  double cost(const std::vector<int32_t>& choice) const;

 private:
  void check(int32_t variable) const;

  std::vector<std::vector<double>> costs_;
  std::vector<std::string> names_;
  std::vector<Edge> edges_;
};

}  // namespace moai::plan
