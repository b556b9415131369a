#pragma once

#include <string>
#include <vector>

#include "plan/candidate.h"

namespace moai::plan {

// A plan as JSON, to be kept, read, edited and given back: docs/plans.md describes the format. Nodes and
// inputs that play the same part in equal layers share an entry.
std::string save_plan(const Step& step, const OuterChoice& outer, const Assignment& assignment);

// Which factors an assignment splits, and of which ops, in one line for logs: `i of aten.mm; r.0 of …`.
std::string split_words(const ir::Graph& graph, const Frame& frame, const Assignment& assignment);

// A plan that was read: its outer choice, and what each entry says of the graph that it was made for.
struct SavedPlan {
  struct Entry {
    int32_t at = 0;    // number of the first node, or position of the first input
    std::string what;  // the op, or the input's type
    std::vector<std::string> axes;
    int32_t line = 0;  // of the file, for messages
  };
  OuterChoice outer;
  std::vector<Entry> nodes, inputs;
};

// Throws Error(Phase::kConfig) with line and column, naming the field.
SavedPlan load_plan(const std::string& json);

// The choices of a saved plan for every node and input of a step (with the plan's recomputation). Throws
// Error(Phase::kPlan) where the plan is of another step, or splits what cannot be split, naming the op and
// the dimension. What the plan has no entry for stays free.
void pin_saved(const SavedPlan& plan, const Step& step, Terms* terms);

}  // namespace moai::plan
