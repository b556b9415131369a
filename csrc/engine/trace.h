#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "compile/program.h"
#include "ir/graph.h"
#include "runtime/backend.h"

namespace moai::engine {

struct Prediction;  // prediction.h

// A program of a trace, made for a set of values that the step leaves behind. It serves every
// launch that wants no more than those.
struct LoadedProgram {
  std::vector<ir::ValueId> outputs;                               // sorted
  std::vector<std::shared_ptr<const compile::Program>> programs;  // by device
  std::vector<std::unique_ptr<runtime::Executable>> executables;  // by device

  // On several devices: where each input and output lies, by position among the trace's inputs and among
  // `outputs`; and the offsets of views that it holds for, as (position, value) of the step's numbers.
  std::vector<runtime::ShardingPtr> inputs_lie;
  std::vector<runtime::ShardingPtr> outputs_lie;
  std::vector<std::pair<int32_t, int64_t>> offsets;
  // Of experts, where it sends rows to them and may find no slots for some: see Note [Rows by expert] in
  // ops/expert_rows.h; else 0.
  double capacity = 0;
  bool fits = true;                             // in the devices' memory
  std::string layout;                           // in words
  std::string plan;                             // as a file; empty where it cannot be
  std::shared_ptr<const Prediction> predicted;  // of a training step that was not split at random
};

// A sequence of ops between two cuts that was seen at least once, and the programs that serve it.
// The recorder makes it and does not touch it again; the members below the line belong to the
// worker's thread.
struct Trace {
  uint64_t id = 0;
  ir::Graph graph;            // as recorded; outputs are chosen at each launch
  std::vector<bool> donated;  // by graph input: its storage holds another value when the step ends
  bool replaces(size_t input) const { return input < donated.size() && donated[input]; }
  std::shared_ptr<const std::vector<std::string>> lines;  // by Node::origin: the user's line, or empty
  uint64_t structure = 0;                                 // ir::structure_hash(graph)

  uint64_t loader = 0;  // whose the programs are
  int64_t runs = 0;
  std::vector<bool> varying_offsets;  // by number: a view's offset that was seen to change
  std::vector<LoadedProgram> programs;
  // The same, for a first half that leaves its values as a recipe (recipe.h); null where it keeps them.
  std::shared_ptr<Trace> keeping_inputs;
};

}  // namespace moai::engine
