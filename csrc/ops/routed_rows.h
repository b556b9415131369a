#pragma once

#include "ir/symbol.h"

namespace moai::ops {

// Note [Routed rows]
// A mixture of experts sorts its tokens by expert, multiplies runs of rows and puts them back. In the order
// that the sort makes, a part of the tokens is not a part of the whole. But each device, and each turn, can
// sort its own tokens: every op up to the way back is right on its rows alone. The ops of that way are
// rewritten (plan/route_rows.h) into ones whose dim of rows *is* the tokens' (token, choice), and which
// become what they were on each part:
//
//   moai.sort_rows(ids, choices[, u])  -> sorted ids, and for each where it was     an order begins; tokens
//                                                                                   are split by u at most
//   moai.inverse_rows(order)           -> for each row where it went
//   moai.take_rows(x, at)              -> x[at]; `at` of rows, or of tokens (order // choices)
//   moai.grouped_rows_mm(a, b, ids, groups)   `_grouped_mm` with runs of equal sorted ids for groups
//   moai.return_rows(y, inverse)       -> y[inverse]                                it ends
//   moai.put_rows(self, at, y, adds[, times])  -> self with y at these rows         it ends
//
// A value whose rows are in such an order stays with the part that it was made on: gathered, its parts would
// not be the whole's order (plan::Frame::own_order). A choice of one token is nothing without the others, so
// that no part cuts them.
struct RoutedRows {
  ir::Symbol sort, inverse, take, grouped_mm, give_back, put;
};
const RoutedRows& routed_rows();

bool is_routed_rows(ir::Symbol op);

// Whether a node of this op takes rows in an order of their own and leaves them where they were.
inline bool ends_order(ir::Symbol op) { return op == routed_rows().give_back || op == routed_rows().put; }

}  // namespace moai::ops
