#pragma once

#include <vector>

#include "plan/evaluator.h"
#include "plan/pairs.h"

namespace moai::plan {

// What the plans of a search add up to at least, nothing overlapping, in seconds: all numbers of stages and
// meshes, of two axes (`pairs`) and of three, gradients late and at once, whatever else they do, tried or
// not. `sum` is what the best plan adds up to, infinite where none fits: nothing is proven beyond it.
double least_sum(Evaluator& plans, const std::vector<Pair>& pairs, double sum);

}  // namespace moai::plan
