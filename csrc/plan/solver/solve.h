#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <utility>
#include <vector>

#include "plan/solver/factor_graph.h"
#include "plan/solver/order.h"
#include "plan/solver/pairwise.h"

namespace moai::plan {

// How much work to do; in steps and entries, never in seconds, so that every machine gives the same.
// A step is one addition and one comparison: 0.2 to 0.4 ns.
struct SolveOptions {
  double table_entries = 1 << 22;  // of the largest table in exact elimination; 8 bytes each
  double total_entries = 1 << 27;  // of all its tables
  double direct_steps = 4e9;       // elimination right away if it takes no more than this,
  double exact_steps = 8e9;    // and later, when the dual has ruled options out, than this in all; 0: never
  double search_steps = 1e10;  // of everything else: ends sweeps, block moves and branches alike
  int32_t sweeps = 100;        // of the dual, at most
  int32_t blocks = 30;         // block moves for each better choice found
  int32_t branches = 200;      // nodes of branch and bound; 0: none
  double enough_gap = 0;       // of the cost: where the bound is as close, no more is done
  double give_up = std::numeric_limits<double>::infinity();  // nor where the bound reaches this cost
};

struct Solution {
  std::vector<int32_t> choice;  // per variable; empty if none was found
  double cost;                  // as FactorGraph::cost; +infinity if none was found
  double lower_bound;           // no choice costs less; +infinity if there is none
  bool exact;                   // proven best, up to 1e-9 of the cost; or proven that there is none
  int32_t blocked = -1;         // without a choice: a variable that no option suits, if proven

  // What was done for it.
  double steps = 0;          // of exact elimination
  double largest_table = 0;  // entries
  int32_t tables = 0;        // made by exact elimination
  int32_t sweeps = 0;
  int32_t branches = 0;

  bool feasible() const { return !choice.empty(); }
  // By which share of the cost the best might be cheaper; 0 if exact, +infinity without a choice.
  double gap() const;
};

// Finds the choice of least cost, and proves how good it is.
//
// KeptOptions that cannot matter go first, then variables with up to two neighbours; then, if all tables fit,
// every variable is eliminated exactly (exact.h). Otherwise a dual (dual.h) raises a lower bound, its
// rounded choices are improved by exact moves of large blocks of variables, and options that the bound
// rules out are removed, until elimination fits after all; last comes branch and bound.
//
// Deterministic. One object serves many problems that differ in the variables' costs alone: the order
// and the merged tables are kept, and the dual starts from its last messages (so that, where the result
// is not exact, it may depend on what was solved before). Not for several threads at a time.
class Solver {
 public:
  explicit Solver(FactorGraph graph, SolveOptions options = {});

  // As FactorGraph's.
  void set_total_costs(int32_t variable, std::vector<double> costs);
  // As SolveOptions': it moves with the costs.
  void set_give_up(double cost) { options_.give_up = cost; }
  const FactorGraph& graph() const { return graph_; }

  // `start`, if given, is a choice that the result must not be worse than.
  Solution solve(const std::vector<int32_t>& start = {});

 private:
  using Message = std::pair<std::vector<double>, std::vector<double>>;  // to a, to b; of all options

  Solution search(const Pairwise& problem, const KeptOptions& options, const std::vector<int32_t>& start,
                  double start_cost);
  void finish(const KeptOptions& options, const std::vector<int32_t>& start, Solution* solution) const;

  FactorGraph graph_;
  SolveOptions options_;
  std::vector<std::vector<double>> loops_;
  Pairwise merged_;
  EliminationOrder order_;      // of all variables, if that fits
  EliminationOrder reduction_;  // of those with up to two neighbours
  std::map<std::pair<int32_t, int32_t>, Message> messages_;
};

Solution solve(const FactorGraph& graph, const SolveOptions& options = {},
               const std::vector<int32_t>& start = {});

// Throws Error(Phase::kPlan) that names the blocked variable, unless there is a choice.
void require_feasible(const FactorGraph& graph, const Solution& solution);

}  // namespace moai::plan
