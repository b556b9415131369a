#pragma once

#include <cstdint>
#include <vector>

#include "plan/atoms.h"

namespace moai::plan {

// Which nodes and inputs of a graph play the same part, as those of equal layers do: they get one choice.
//
// Colour refinement (Weisfeiler and Leman): nodes start out coloured by what they compute, inputs by their
// types, and `rounds` times each colour takes in those of its neighbours. So nodes are alike if what lies
// within `rounds` steps of them is; the first and the last layers keep colours of their own. Linear in
// rounds x edges. The colours are numbered by first appearance.
struct Fold {
  std::vector<int32_t> of_node;
  std::vector<int32_t> of_input;       // by position among the inputs
  std::vector<ir::NodeId> first_node;  // by colour; kNone of an input's
  std::vector<int32_t> first_input;    // by colour; kNone of a node's
  std::vector<int32_t> count;          // by colour
};

Fold fold(const ir::Graph& graph, const Frame& frame, int32_t rounds);

}  // namespace moai::plan
