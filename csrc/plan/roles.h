#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "plan/atoms.h"

namespace moai::plan {

// What an atom is to whoever wrote the script.
enum class Role : uint8_t {
  kFeature,   // width, heads, vocabulary: what tensor parallelism splits
  kBatch,     // independent samples
  kSequence,  // positions in a sample
  kExpert,    // of a grouped product
};

enum class InputRole : uint8_t {
  kData,    // has the batch in it
  kWeight,  // read by forward or backward
  kState,   // read by the optimizer alone
};

// The input whose memory an output takes over, through tied results and whole updates: what a step updates
// must end where it began. An input that is an output is its own; kNone of a new value.
ir::ValueId updated_input(const ir::Graph& graph, ir::ValueId output);

// By value: what it lies in. Views lie in their operand, tied results in theirs, updates in what they update,
// all else in itself.
std::vector<ir::ValueId> find_bases(const ir::Graph& graph, const Frame& frame);

// What the parts of a training step are for, told from its graph alone.
//
// The batch is the outermost dim of the integer inputs (tokens, labels), or, where there are none, of the
// inputs that the step leaves as they were and that most FLOPs have a dim in common with; the sequence is
// the second dim of integer inputs.
struct Roles {
  std::vector<Role> of_atom;        // by atom
  std::vector<InputRole> of_input;  // by input
  ir::NodeId forward_end = 0;       // the first node of backward; all nodes where there is none
  ir::NodeId backward_end = 0;      // the first node after backward: the optimizer's

  bool in_loop(ir::NodeId node) const { return node < backward_end; }
};

Roles find_roles(const ir::Graph& graph, const Frame& frame);

// Note [Time is an axis]
// A step that goes through its batch in `n` equal parts splits the batch over time: the same algebra as over
// devices, but no wire. What has no batch in it is computed once; a sum over the batch is added up where it
// lies; what lies sharded is gathered again in each turn, or lies replicated. A sum over the batch that
// forward or backward put to a use that is not linear (batch norm, a contrastive loss) forbids the split.
struct TimeAxis {
  std::vector<int32_t> atoms;  // the batch's, outermost first
  int64_t size = 0;            // of the outermost: the parts must divide it; 0 where no input is a batch
  std::string obstacle;        // why it cannot be split, naming the op; empty where it can
  std::vector<bool> repeats;   // by node: has the batch in it, so it runs in each turn
  // By value: added up over the batch from integers alone, as a count of tokens is, or a loss' count of its
  // targets. It can be had before the first turn, and turns may use it as they like.
  std::vector<bool> ahead;
};
TimeAxis find_time_axis(const ir::Graph& graph, const Frame& frame, const Roles& roles);

// The frame of one turn: the batch is 1 / turns of what it was. `turns` divides the axis' size.
Frame frame_of_turn(const Frame& frame, const TimeAxis& axis, int32_t turns);

}  // namespace moai::plan
