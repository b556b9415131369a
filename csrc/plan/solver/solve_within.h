#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "plan/solver/factor_graph.h"
#include "plan/solver/solve.h"

namespace moai::plan {

// What options use of resources (bytes at moments, say), and how much there is of each.
struct Resources {
  std::vector<double> limits;      // per resource, not negative
  std::vector<std::string> names;  // per resource, for messages; may be empty
  // Per variable: empty if it uses nothing, else a row of uses per option. Any sign; repeats counted.
  std::vector<std::vector<double>> uses;
};

struct WithinOptions {
  SolveOptions solve;
  int32_t rounds = 60;                                       // unlimited problems solved, at most
  double enough_gap = 0;                                     // stop when the gap is no larger
  double give_up = std::numeric_limits<double>::infinity();  // stop when nothing below this is left
  double enumerate_steps = 1e6;  // options looked at to close the gap that prices leave; 0: none
  int32_t improvements = 64;     // moves forced, and repaired after, for each of the best few choices
  // Levels of a search that halves what a variable may use, where more than 1 % is open (is_wide).
  int32_t halvings = 0;
};

struct WithinSolution {
  Solution solution;  // the best that keeps all limits; its bound is the Lagrangian one, or halves'
  std::vector<double> multipliers;  // what a unit of each resource is worth, at the Lagrangian bound
  std::vector<double> used;         // by the choice; without one, by the choice that exceeds least
  int32_t blocked = -1;             // a limit that the least uses alone exceed: there is no choice
  int32_t rounds = 0;
};

// Finds a choice of least cost that keeps to the limits.
//
// The limits get prices (Lagrange multipliers), which a proximal bundle method raises to where the bound
// is highest; each round solves one unlimited problem, warm. Every round's choice is repaired if it
// exceeds a limit, at least cost per excess, and improved by moves that keep to the limits. The bound
// may stay below the best cost even when every round is exact (the duality gap, at most what about as
// many variables as there are binding limits can cost). Where that leaves few choices they are gone through
// one by one (enumerate.h); `solution.exact` says when nothing cheaper is left. A variable that stands for
// many may leave a wide gap: options that use little and those that use much are then solved each by
// themselves, and the lower of their bounds is the whole's. Deterministic. Limits are kept up to 1e-9 of
// them.
WithinSolution solve_within(const FactorGraph& graph, const Resources& resources,
                            const WithinOptions& options = {}, const std::vector<int32_t>& start = {});

// Whether halves could narrow what an answer leaves open.
bool is_wide(const WithinSolution& found, const WithinOptions& options);

// Throws Error(Phase::kPlan) that names what is exceeded and by how much, unless there is a choice.
void require_feasible(const FactorGraph& graph, const Resources& resources, const WithinSolution& solution);

}  // namespace moai::plan
