#pragma once

#include <vector>

#include "compile/local/local_builder.h"
#include "compile/local/loop.h"
#include "compile/local/parts.h"
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
  bool has_turns(ir::ValueId value) const { return compile::has_turns(frame, value, loop); }
};

// The graph of one device of one group. See partition.h.
ir::Graph write_device_graph(const SplitStep& step, Place place, int32_t group);

}  // namespace moai::compile
