#pragma once

#include <cstdint>
#include <vector>

#include "plan/solver/dual.h"
#include "plan/solver/pairwise.h"
#include "plan/solver/solve.h"

namespace moai::plan {

// Branch and bound on a pairwise problem too wide to eliminate as it is.
//
// Each node raises its dual bound, rounds, improves, and forbids options that the bound rules out; it
// closes when nothing better can be left, or when what is left can be eliminated. An open node is split
// in two halves of one variable's options. The node of least bound comes first.
class Search {
 public:
  // `problem` and `options` must outlive it. `constant` is what all choices cost beside, of which gaps are
  // shares too. Counts its work in `counters`.
  Search(const Pairwise& problem, const SolveOptions& options, double constant, Solution* counters);

  // A choice to improve on; without one, only a cost that is to be beaten.
  void set_start(const std::vector<int32_t>& choice);
  void set_upper(double cost);

  // `root` brings the first messages and keeps the last.
  void run(Dual* root);

  bool found() const { return found_; }  // a choice that beats the upper cost
  const std::vector<int32_t>& best() const { return best_; }
  double upper() const { return upper_; }
  // No choice is cheaper than this, or than `upper`.
  double bound() const { return bound_; }
  // Where it last showed that nothing is left.
  int32_t blocked() const { return blocked_; }

 private:
  bool climb(Dual* node, int32_t sweeps);
  bool eliminate(const KeptOptions& allowed, double most_steps);
  void move_all(Dual* root);
  void record(const std::vector<int32_t>& choice);
  void improve(std::vector<int32_t> choice);
  bool is_closed(double bound) const;
  bool is_enough(double bound) const;
  bool is_spent() const { return spent_ >= options_.search_steps; }
  bool split(const Dual& node, std::vector<Dual>* open) const;

  const Pairwise& problem_;
  const SolveOptions& options_;
  double constant_;
  Solution* counters_;
  std::vector<int32_t> best_;
  bool found_ = false;
  double upper_;
  double bound_;
  int32_t blocked_ = -1;
  std::vector<int32_t> times_held_;
  double sweep_steps_ = 0;  // of one sweep of the dual
  double spent_ = 0;        // steps, beside what exact elimination took
};

// Counts an elimination in a solution's counters.
void count(const EliminationOrder& order, Solution* counters);

}  // namespace moai::plan
