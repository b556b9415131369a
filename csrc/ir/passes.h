#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "ir/graph.h"

namespace moai::ir {

// Passes are pure: they take a graph and return a better one that computes the same outputs, in
// the same output order, from the same inputs and numbers (positions are kept, even of unused
// ones). Each runs in time linear in the graph, which must pass verify.
//
// Outputs that were different values stay different values, none of which becomes an input or a
// view: every output is a storage of its own, and one value for two of them would be copied again.

// Drops nodes none of whose results is used. One without results is there for its effect, which is to
// raise, and stays.
Graph eliminate_dead_code(const Graph& graph);
// The same, where nodes that are there for more than their results are those that `stays` says.
Graph eliminate_dead_code_but(const Graph& graph, const std::function<bool(const Node&)>& stays);

// Merges nodes that compute the same from the same operands. Never merges across the start of
// backward, except views, which cost nothing; nor a node with tied results. Random ops need no
// exception: each takes its own position of the generator's counter as a number, and numbers at
// different positions are different arguments, whatever their values (but for the offset of a view
// as long as its operand, which can only be 0).
Graph merge_common_subexpressions(const Graph& graph);

// Replaces copies that change nothing by their source: aten.clone and aten._to_copy to the same
// type; and an update of all elements by its new content, seen through a view where the shapes differ.
Graph remove_needless_copies(const Graph& graph);

// Replaces every strided view by steps (see ir/view.h), each a node, and leaves as `view` those that
// have none (overlapping strides). For the planner and for reading; the executor runs the strided form.
//
//   moai.slice(%0, dim, start, length, step)   moai.permute(%0, [order])
//   moai.reshape(%0, [sizes])                  moai.expand(%0, [sizes])
//
// `numbers` are the values of the numbers of the step at hand, by position (only those that are
// offsets are read): the form holds for these offsets. Without them a view whose offset is a number
// stays, unless it is as long as its operand.
Graph canonicalise_views(const Graph& graph, const std::vector<int64_t>& numbers = {});

// The inverse: every step a strided view again, with a copy before a reshape that no strides have.
Graph strided_views(const Graph& graph);

// Offsets of views and updates that are numbers become what these numbers are at the step at hand (by
// position), but for those that vary. What comes out holds for steps with the same ones.
Graph fixed_offsets(const Graph& graph, const std::vector<int64_t>& numbers, const std::vector<bool>& varies);

}  // namespace moai::ir
