#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "ir/graph.h"

namespace moai::compile {

// Where a view begins in its root: at a number of the step, in elements of the view, or at a byte.
struct Start {
  int64_t bytes = 0;
  int32_t number = ir::kNone;

  bool is_zero() const { return bytes == 0 && number == ir::kNone; }
  bool operator==(const Start& other) const { return bytes == other.bytes && number == other.number; }
};

// Which values of a graph lie in the memory of which. A root owns memory, of which it is the first byte
// and all; every value lies in one root: in itself, or as a view does in what it shows.
//
// Note [Views of views]
// An access has one offset, fixed or a number of the step. Where a view of a view would need the sum of
// two, the view in the middle is copied first; the copy is a root that is no value of the graph.
//
// Note [Writes through views]
// `v = view(b)`, `w = op_(v)`, `u = update(b, w)` at the place that `v` shows, is one write into the
// memory that becomes `u`: `w` lies in `u` from the start, and `u` is there once the op has run. Its
// update is *folded*: it does nothing, and reads `b` when the op does.
struct Roots {
  using RootId = int32_t;  // a value, or beyond the values the copy of one

  std::vector<RootId> root;                            // by value
  std::vector<Start> start;                            // by value: where in its root
  std::vector<ir::NodeId> last_use;                    // by root: last node that reads it; kNone: none does
  std::unordered_map<ir::ValueId, RootId> copies;      // views that are copied, and the copy's root
  std::unordered_map<ir::ValueId, ir::NodeId> folded;  // written values, and the update that is folded

  bool is_root(ir::ValueId value) const { return root[value] == value; }
};

// Linear in the graph. An output of the graph is used by node number nodes().size().
Roots find_roots(const ir::Graph& graph);

}  // namespace moai::compile
