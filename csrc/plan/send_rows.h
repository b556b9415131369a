#pragma once

#include "plan/atoms.h"

namespace moai::plan {

// Puts the rows of mixtures of experts that were routed (route_rows.h) in slots, so that experts can go to
// devices of their own: see Note [Rows by expert] in ops/expert_rows.h. What lies between grouped products is
// done to rows in slots, all else to rows by origin. Each expert has slots for `capacity` times an even share
// of the rows. Computes the same outputs from the same inputs and numbers.
//
// `frame` is the graph's. Mixtures whose tokens have no factor to send by stay as they are.
ir::Graph send_rows(const ir::Graph& graph, const Frame& frame, int32_t capacity);

// Whether `send_rows` would change anything.
bool sends_rows(const ir::Graph& graph, const Frame& frame);

}  // namespace moai::plan
