#pragma once

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include "plan/atoms.h"
#include "plan/mesh.h"

namespace moai::plan {

// What a node does along one axis.
struct AxisChoice {
  enum class Kind : uint8_t {
    kWhole,   // every device does all of it
    kFactor,  // each does its part of atom `leaf` of factor `factor`
    kLinear,  // partial sums pass through it; `factor` says which of the rule's linear sets
  };
  Kind kind = Kind::kWhole;
  int16_t factor = 0;
  int16_t leaf = 0;

  bool operator==(const AxisChoice& o) const {
    return kind == o.kind && factor == o.factor && leaf == o.leaf;
  }
};

// One way to split a node over a mesh: what it asks of its operands and what it leaves.
struct Option {
  std::vector<AxisChoice> choices;  // by axis
  std::vector<Placement> operands;  // by operand
  std::vector<Placement> results;   // by result
  double seconds = 0;               // of computing, on the device with the largest part
  double sending = 0;               // of these, of what parts of the op exchange, copies for that included
  double scratch_bytes = 0;         // that it works on beside operands and results, there
};

inline const LeafSizes& leaf_sizes(const Frame& frame, ir::ValueId value) { return frame.value_sizes[value]; }

// Whether a value's rows are where they were before it is brought from one placement to another: rows in an
// order of their own cannot go elsewhere (Note [Routed rows]).
bool keeps_order(const Frame& frame, ir::ValueId value, const Placement& from, const Placement& to);

// Seconds for bringing a value from one placement to another, as mesh.h has it; infinite, too, where its
// order is not kept.
double convert_seconds(const ir::Graph& graph, const Frame& frame, ir::ValueId value, const Placement& from,
                       const Placement& to, const Mesh& mesh, bool merged = false);

// Every way that the rules allow, the whole one first: for each axis a splittable atom at least as large as
// the axis, a linear set, or nothing. Axes that split the same atom must fit it together. With `roles` a node
// of forward or backward splits along an axis only what the axis is for.
std::vector<Option> options_of(const ir::Graph& graph, const Frame& frame, ir::NodeId node, const Mesh& mesh,
                               const Roles* roles = nullptr);

// Leaves of these ways the wanted ones, where there are any: what cannot be so, as too small a dim cannot be
// cut, stays as it was.
template <typename Way, typename Wanted>
void prefer(std::vector<Way>* ways, const Wanted& wanted) {
  std::vector<Way> kept;
  std::copy_if(ways->begin(), ways->end(), std::back_inserter(kept), wanted);
  if (!kept.empty()) *ways = std::move(kept);
}

// Every placement that an input of the graph may have: replicated or sharded, by axis.
std::vector<Placement> input_placements(const Frame& frame, ir::ValueId value, const Mesh& mesh);

}  // namespace moai::plan
