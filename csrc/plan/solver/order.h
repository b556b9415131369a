#pragma once

#include <cstdint>
#include <vector>

#include "plan/solver/pairwise.h"

namespace moai::plan {

// What eliminating variables may take; an order stops short of what would exceed it.
struct EliminationLimits {
  double largest;      // entries of one table
  double entries;      // of all tables together
  double steps;        // additions
  int32_t neighbours;  // that an eliminated variable may have
};

struct EliminationOrder {
  std::vector<int32_t> order;  // complete if it holds every variable
  double largest = 0;
  double entries = 0;
  double steps = 0;
};

// In which order to eliminate: greedily, the variable whose elimination joins the fewest pairs of
// neighbours (min-fill) or leaves the smallest table (min-weight), whichever order takes fewer steps;
// ties to the lowest index. Takes some n log n for graphs of small treewidth.
EliminationOrder order_elimination(const Pairwise& problem, const EliminationLimits& limits);

// The same, but where a limit stands in the way a neighbour is taken out of the graph (to keep its
// value) instead: the one taken out least often before, by `times_held`, then the one with most
// neighbours. What is not in the order was held, and is counted.
EliminationOrder order_block(const Pairwise& problem, const EliminationLimits& limits,
                             std::vector<int32_t>* times_held);

}  // namespace moai::plan
