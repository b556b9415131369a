#pragma once

#include "ir/graph.h"

namespace moai::ops {

// Note [Rows by expert]
// Rows of a mixture of experts lie by origin: with their tokens, sorted by expert (Note [Routed rows]). To
// give experts to devices of their own (Lepikhin et al. 2020) rows go to *slots*: a dim made of (expert,
// unit, slot), where `unit` is a part of the tokens' outermost factor and each expert has so many slots for
// each unit of tokens.
//
//   moai.assign_slots(ids, E, U, S)
//       -> ids: of the rows in slots; came: where each arrived; and of sorted rows by origin
//          send: for each slot that they leave by, which row; left: for each row, by which slot it leaves
//   moai.rows_to_experts(x, send, came, E, U, S)   -> rows in slots
//   moai.rows_to_tokens(y, left, came, E, U, S)    -> rows by origin again
//   moai.slots_mm(a, b, ids, E, U, S, rows)        `_grouped_mm` on rows in slots, `rows` of which are any
//   moai.take_experts(x, ids, E, U, S)             -> x[ids]: what each expert has, for rows in slots
//   moai.add_to_experts(x, ids, y, E, U, S)        -> x with rows in slots added up for each expert
//
// Units split: nobody sends anything, and a part's rows take the slots of its units. Experts split, along one
// axis: its devices send each other rows, by all-to-all. The slots of a device are one pool: its rows lie in
// front, sorted by expert, whichever they are, and behind them nothing (ids that are no expert's, rows with
// anything in them). A device gives each other one as many slots as its units and the other's experts have;
// where rows need more, the step ends with OutOfSlots before it has written anything, and more slots for
// each unit have to be asked for.
struct ExpertRows {
  ir::Symbol assign, to_experts, to_tokens, mm, take, add;
};
const ExpertRows& expert_rows();

bool is_expert_rows(ir::Symbol op);

// Whether a node's results have rows of an order of their own in their first dim, which is not its operands'.
inline bool moves_rows(ir::Symbol op) {
  const ExpertRows& all = expert_rows();
  return op == all.assign || op == all.to_experts || op == all.to_tokens;
}

// Of a node of these: the sizes of the dim of slots.
struct Slots {
  int64_t experts = 0;
  int64_t units = 0;
  int64_t each = 0;  // of an expert, for one unit

  int64_t count() const { return experts * units * each; }
};

}  // namespace moai::ops
