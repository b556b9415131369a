#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "plan/solver/factor_graph.h"

namespace moai::plan {

// Inside the solver only: a factor graph with one table per pair of variables.
struct Pairwise {
  using Values = std::shared_ptr<const std::vector<double>>;
  struct Edge {
    int32_t a;  // a < b
    int32_t b;
    Values table;  // row-major, rows are options of `a`
  };

  int32_t variables() const { return static_cast<int32_t>(unary.size()); }
  int32_t options(int32_t variable) const { return static_cast<int32_t>(unary[variable].size()); }
  double cost(const std::vector<int32_t>& choice) const;

  std::vector<std::vector<double>> unary;
  std::vector<Edge> edges;  // by (a, b), each pair once
};

// Which options of each variable remain, ascending.
using KeptOptions = std::vector<std::vector<int32_t>>;

// The graph with parallel edges added up and edges from a variable to itself made part of `loops`,
// costs to be added to the variable's own. Sums of the same matrices are made once.
Pairwise merge_edges(const FactorGraph& graph, std::vector<std::vector<double>>* loops);

// Rows and columns of tables, each cut out once: equal tables stay one.
class TableCuts {
 public:
  Pairwise::Values cut(const Pairwise::Values& table, const std::vector<int32_t>& rows,
                       const std::vector<int32_t>& columns, int32_t all_rows, int32_t all_columns);

 private:
  int32_t id_of(const std::vector<int32_t>& options);

  std::map<std::vector<int32_t>, int32_t> ids_;
  std::map<std::pair<const void*, std::pair<int32_t, int32_t>>, Pairwise::Values> cuts_;
  std::vector<Pairwise::Values> sources_;  // kept, so that their addresses stay theirs
};

// The problem with these options only; option `i` of a variable was `options[variable][i]`.
Pairwise restrict_options(const Pairwise& problem, const KeptOptions& options);

// Removes options that no solution can use: their own cost is infinite, or every pair with some
// neighbour's options is (arc consistency). Returns a variable left without options, or -1.
int32_t remove_forbidden(const Pairwise& problem, KeptOptions* options);

// Removes options that the variable's most promising option replaces at no more cost whatever the
// neighbours choose (dead-end elimination, Goldstein 1994). Takes a few passes over all tables.
void remove_dominated(const Pairwise& problem, KeptOptions* options);

}  // namespace moai::plan
