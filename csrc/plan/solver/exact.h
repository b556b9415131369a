#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "plan/solver/pairwise.h"

namespace moai::plan {

// Eliminates variables one by one, exactly (non-serial dynamic programming: Bertele and Brioschi 1972;
// bucket elimination: Dechter 1999): a variable's costs and tables give way to one table over its
// neighbours, which holds the least that the variable can add for each of their choices.
//
// An elimination takes the product of the options of the variable and its neighbours in additions, and
// its table that of the neighbours alone in memory; `order_elimination` says both beforehand. Tables
// stay until the object dies, for `complete`.
class Elimination {
 public:
  // Eliminates `order`. Without a variable that was left, at most two neighbours may be joined at a time
  // unless all are eliminated in the end: `rest` is pairwise.
  Elimination(const Pairwise& problem, const std::vector<int32_t>& order);

  // A variable that no option suits, whatever the others are, or -1. Then nothing below may be asked.
  int32_t blocked() const { return blocked_; }
  // What all choices cost, beside the rest.
  double constant() const { return constant_; }
  // The variables that are left, ascending, and the problem that they pose.
  const std::vector<int32_t>& left() const { return left_; }
  Pairwise rest() const;
  // Given the choice of those left, makes the best choice of those eliminated.
  void complete(std::vector<int32_t>* choice) const;

  // The variables from the last one eliminated to the first: given the choices of those before it in this
  // order (and of those left), what each option of a variable costs at least with all that comes after it.
  // The least of them is what is expected; the others exceed the least total by as much as they exceed it.
  std::vector<int32_t> from_last() const { return {order_.rbegin(), order_.rend()}; }
  std::vector<double> costs_given(int32_t variable, const std::vector<int32_t>& choice) const;

 private:
  struct Table {
    std::vector<int32_t> scope;  // by position; the last is contiguous
    std::vector<int64_t> strides;
    Pairwise::Values values;
  };

  void add(std::vector<int32_t> scope, Pairwise::Values values);
  void eliminate(int32_t variable);
  bool fill_table(int32_t variable, const std::vector<int32_t>& around, std::vector<double>* out);
  Pairwise::Values transposed(const Pairwise::Edge& edge);
  int32_t options(int32_t variable) const { return static_cast<int32_t>(unary_[variable].size()); }

  std::vector<std::vector<double>> unary_;
  std::vector<int32_t> order_;
  std::vector<int32_t> position_;            // in the order; those left follow
  std::vector<std::vector<Table>> buckets_;  // of the variable of a scope that comes first
  std::vector<int32_t> left_;
  std::map<const void*, Pairwise::Values> transposed_;
  double constant_ = 0;
  int32_t blocked_ = -1;
};

}  // namespace moai::plan
