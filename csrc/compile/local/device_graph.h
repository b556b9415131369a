#pragma once

#include <vector>

#include "compile/local/local_builder.h"
#include "compile/local/loop.h"
#include "compile/local/parts.h"
#include "plan/assign.h"

namespace moai::compile {

// A whole step, and how it is split over devices and time.
struct SplitStep {
  const ir::Graph& graph;
  const plan::Frame& frame;  // of one turn
  const plan::Mesh& mesh;
  const plan::Assignment& assignment;
  const Loop& loop;

  const plan::Placement& produced(ir::ValueId value) const { return assignment.placement(graph, value); }
  // Where an output must lie.
  plan::Placement wanted(ir::ValueId output) const;
  // Whether turns have a part of it each.
  bool has_turns(ir::ValueId value) const;
};

// The graph of one device. See partition.h.
ir::Graph write_device_graph(const SplitStep& step, Place place);

}  // namespace moai::compile
