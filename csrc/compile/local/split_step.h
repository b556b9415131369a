#pragma once

#include <vector>

#include "compile/local/loop.h"
#include "compile/local/phases.h"
#include "compile/local/stages.h"
#include "plan/assign.h"

namespace moai::compile {

// A whole step, and how it is split over devices and time.
struct SplitStep {
  SplitStep(const ir::Graph& graph, const plan::Frame& frame, const plan::Mesh& mesh,
            const plan::Assignment& assignment, const Loop& loop, const Stages& stages);

  const ir::Graph& graph;
  const plan::Frame& frame;  // of one turn
  const plan::Mesh& mesh;    // of one stage
  const plan::Assignment& assignment;
  const Loop& loop;
  const Stages& stages;
  const Phases phases;
  const std::vector<Crossing> crossings;
  const TaskClocks clocks;

  const plan::Placement& produced(ir::ValueId value) const { return assignment.placement(graph, value); }
  // Where an output must lie.
  plan::Placement wanted(ir::ValueId output) const;
  // Whether turns have a part of it each, and whether each has one of its own at all.
  bool has_turns(ir::ValueId value) const { return compile::has_turns(frame, value, loop); }
  bool in_loop(ir::ValueId value) const { return compile::in_loop(graph, frame, loop, phases, value); }
  Phase phase(ir::NodeId node) const { return phases.of_node[node]; }

  // Parts of the step: forward, backward, and what comes after the loop.
  static constexpr int32_t kSections = 3;
  int32_t section(ir::NodeId node) const;
};

}  // namespace moai::compile
