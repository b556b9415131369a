#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "plan/solver/factor_graph.h"
#include "plan/solver/pairwise.h"
#include "plan/solver/solve_within.h"

namespace moai::plan {

// A choice that is changed option by option while the limits on resources are kept in sight.
//
// A change takes the options of the variable's neighbours times their degrees; looking for one takes all
// options times the resources. Ties go to the lowest variable and option.
class Repair {
 public:
  // All three must outlive it; `problem` is the graph with one table per pair.
  Repair(const Pairwise& problem, const Resources& resources);

  void set(const std::vector<int32_t>& choice);
  const std::vector<int32_t>& choice() const { return choice_; }
  double cost() const { return cost_; }
  const std::vector<double>& used() const { return used_; }
  // By how much the limits are exceeded, in shares of them; 0 if they are kept.
  double excess() const { return excess_; }

  // Changes options, those first that cost least per excess removed, until the limits are kept. False if
  // no change lowers the excess further at a total cost of no more than `most`, which is finite.
  bool repair(double most);
  // From a choice within the limits to one within them at no more cost: single changes while they
  // gain, then changes that gain but exceed, each repaired; at most `forced` of those.
  void improve(int32_t forced);

 private:
  struct Change {
    int32_t variable;
    int32_t option;
    double cost;
  };

  using Rank = std::pair<bool, double>;  // whether it costs at all; per excess removed, if so

  Rank rank(int32_t variable, int32_t option, double most) const;
  double change_cost(int32_t variable, int32_t option) const;
  double excess_after(int32_t variable, int32_t option) const;
  void change(int32_t variable, int32_t option);
  void look_around(int32_t variable);
  bool gain();

  const Pairwise& problem_;
  const Resources& resources_;
  std::vector<double> scale_;                // of excess, per resource
  std::vector<std::vector<int32_t>> edges_;  // of a variable
  std::vector<int32_t> choice_;
  std::vector<std::vector<double>> costs_;  // of each option, given the neighbours' choices
  std::vector<double> used_;
  double cost_ = 0;
  double excess_ = 0;
};

}  // namespace moai::plan
