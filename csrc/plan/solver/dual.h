#pragma once

#include <cstdint>
#include <vector>

#include "plan/solver/pairwise.h"

namespace moai::plan {

// A lower bound on a pairwise problem that never falls, and choices rounded from it: sequential
// tree-reweighted message passing, TRW-S (Kolmogorov 2006), over chains that ascend by index. It climbs to
// a fixed point of the linear relaxation's dual, exact on trees; a sweep takes twice the sum of all
// tables' entries in additions. Copying one copies its messages, not the tables.
//
// With a known solution's cost, options that cannot be part of a better one are forbidden on the way:
// then the bound is one on all solutions that are better.
class Dual {
 public:
  // `problem` must outlive it.
  explicit Dual(const Pairwise& problem);

  // One pass up and one down. False if no allowed choice is left; `blocked` says where that showed.
  bool sweep();
  double bound() const { return bound_; }
  int32_t blocked() const { return blocked_; }
  // The last sweep's choice, and what it costs (+infinity if the rounding ran into a forbidden pair).
  const std::vector<int32_t>& rounded() const { return rounded_; }
  double rounded_cost() const { return rounded_cost_; }

  // From now on only solutions cheaper than this matter.
  void set_upper(double cost) { upper_ = cost; }
  void forbid(int32_t variable, int32_t option);
  KeptOptions allowed() const;

  // What each option costs here and now, beside what others may do better at.
  std::vector<double> reduced_costs(int32_t variable);

  // The message into one end of an edge, by that end's options: for a warm start. Any values do, but
  // infinite ones, which speak of options forbidden then, count as zero.
  std::vector<double> message(size_t edge, int32_t variable) const;
  void set_message(size_t edge, int32_t variable, const std::vector<double>& values);
  size_t message_entries() const { return messages_.size(); }

 private:
  enum class Way { kUp, kDown };

  bool pass(Way way);
  void collect(int32_t variable);
  void send(const Pairwise::Edge& edge, size_t at, int32_t from, double share);
  bool take_least(int32_t variable, double* least);
  void round(int32_t variable);

  const Pairwise* problem_;
  std::vector<std::vector<double>> unary_;   // with what is forbidden
  std::vector<std::vector<int32_t>> edges_;  // of a variable: first those to lower ones, ascending
  std::vector<int32_t> lower_;               // how many those are
  std::vector<size_t> to_a_;                 // where an edge's messages start
  std::vector<size_t> to_b_;
  std::vector<double> messages_;
  std::vector<double> reduced_;  // the variable's costs and messages, while it is visited
  std::vector<double> part_;     // of it, for one edge
  std::vector<const double*> rows_;
  std::vector<int32_t> rounded_;
  double rounded_cost_;
  double bound_;
  double upper_;
  int32_t blocked_ = -1;
};

}  // namespace moai::plan
