#pragma once

#include <cstdint>
#include <vector>

#include "compile/local/parts.h"
#include "plan/step.h"

namespace moai::compile {

// One turn of a step's loop.
struct Turn {
  int32_t index = 0;
  int32_t count = 1;
  int32_t atom = -1;  // the batch's outermost

  // Which of a dim's atoms the turns divide; -1: none.
  int64_t leaf_of(const plan::Dim& dim) const;
};

// How a step goes through its batch: in `turns` equal parts (see Note [Time is an axis] in plan/roles.h).
struct Loop {
  int32_t turns = 1;
  int32_t atom = -1;          // the batch's outermost
  std::vector<bool> repeats;  // by node: runs in each turn
  std::vector<bool> ahead;    // by value: a sum over the batch that is had before the first turn
  ir::NodeId end = 0;         // nodes from here on run after the last turn

  Turn turn(int32_t index = 0) const { return {index, turns, atom}; }
  bool is_ahead(ir::ValueId value) const { return turns > 1 && ahead[static_cast<size_t>(value)]; }

  // Throws Error(Phase::kCompile) where the step cannot be gone through so.
  static Loop make(const plan::Step& step, int32_t turns);
};

// Whether a value is the second result of a loss by targets, what its mean is divided by: it follows from the
// targets and their weights, without the loss.
bool is_target_weight(const ir::Graph& graph, ir::ValueId value);

// Of a frame of one turn, the sizes of a value's atoms in the whole step, with the turns as an atom of their
// own, outside the batch's; the placement of the value's parts comes along.
LeafSizes with_turns(const plan::Frame& frame, ir::ValueId value, const Loop& loop,
                     plan::Placement* placement);

}  // namespace moai::compile
