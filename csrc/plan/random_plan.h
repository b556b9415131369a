#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "plan/assign.h"

namespace moai::plan {

// What plans have split so far: "aten.mm k" -> how many nodes. `+` and a number stands for a set of operands
// that partial sums pass through, `-` for nodes that nothing splits.
using SplitCounts = std::map<std::string, int64_t>;

// Adds what an assignment splits.
void count_splits(const ir::Graph& graph, const Frame& frame, const Assignment& assignment,
                  SplitCounts* counts);

// Whether any axis has a part in it.
bool is_split(const Option& option);

// Any valid plan: for every node an option at random, nine in ten nodes split where they can be, rarely used
// splits (by `counts`, which it adds to) more often; any placement of the inputs. What is drawn can be
// converted to all that is asked of it. Deterministic by seed and counts.
Assignment random_assignment(const ir::Graph& graph, const Frame& frame, const Mesh& mesh, uint64_t seed,
                             SplitCounts* counts);

// Any stages of a pipeline that runs a graph's nodes in their order: by node, one of so many groups.
// Neighbours are mostly together. Deterministic by seed.
std::vector<int32_t> random_groups(size_t nodes, int32_t groups, uint64_t seed);

}  // namespace moai::plan
