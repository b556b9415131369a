#pragma once

#include <cstdint>
#include <vector>

#include "plan/solver/pairwise.h"
#include "plan/solver/solve_within.h"

namespace moai::plan {

struct Enumeration {
  bool is_complete = false;     // all that could be cheaper was gone through
  std::vector<int32_t> choice;  // cheaper than the given one and within the limits; empty if none was found
};

// Closes the gap that prices leave: within the limits a choice costs no less than with the prices added, less
// what the limits are worth, so whatever is cheaper than `cost` has a priced cost in a known range. Goes
// through all choices in that range, depth first, by the exact costs-to-go of an elimination with the prices,
// those first that cost least, leaving out what cannot keep to the limits. At most `steps` options are looked
// at; an elimination that takes more than that is not begun.
Enumeration enumerate_within(const Pairwise& problem, const Resources& resources,
                             const std::vector<double>& prices, double cost, double steps);

}  // namespace moai::plan
