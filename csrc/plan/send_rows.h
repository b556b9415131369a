#pragma once

#include "plan/atoms.h"

namespace moai::plan {

// Of the devices' share of rows, how many times as many they have room for. Routers that are trained for
// balance rarely send a quarter more to a device with several experts; where rows lack room, the step is run
// again with more.
inline constexpr double kUsualCapacity = 1.25;
inline constexpr double kMostCapacity = 1000;

// Puts the rows of mixtures of experts that were routed (route_rows.h) in slots, so that experts can go to
// devices of their own: see Note [Rows by expert] in ops/expert_rows.h. What lies between grouped products is
// done to rows in slots, all else to rows by origin. Each expert has slots for `capacity` times an even share
// of the rows. Computes the same outputs from the same inputs and numbers.
//
// `frame` is the graph's. Mixtures whose tokens have no factor to send by stay as they are.
ir::Graph send_rows(const ir::Graph& graph, const Frame& frame, double capacity);

// Whether `send_rows` would change anything.
bool sends_rows(const ir::Graph& graph, const Frame& frame);

}  // namespace moai::plan
