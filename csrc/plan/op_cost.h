#pragma once

#include "plan/options.h"

namespace moai::plan {

// What a node takes on the device with the largest part, by what takes it.
struct OpCost {
  double product = 0;    // multiplying matrices, at the device's rate
  double attention = 0;  // the same of attention, which has a rate of its own
  double memory = 0;     // moving operands and results
  double overhead = 0;   // until the next op starts
  double exchange = 0;   // inside the op: small all-reduces where its row is split, halos where its space is
  double host = 0;       // copies to and from the host, of which nothing else is said

  // A roofline: computing and moving overlap, the rest does not, by itself.
  double seconds() const;
};

// Of a node split as `option` says (its seconds are not read).
OpCost cost_of(const ir::Graph& graph, const Frame& frame, ir::NodeId node, const Option& option,
               const Mesh& mesh);

// Of adding a value, which lies so, to what the turns before made of it.
OpCost cost_of_adding(const ir::Graph& graph, const Frame& frame, ir::ValueId value,
                      const Placement& placement, const Mesh& mesh);

// Bytes that a node's kernel works on beside its tensors, on the device with the largest part.
double scratch_bytes_of(const ir::Graph& graph, const Frame& frame, ir::NodeId node, const Option& option,
                        const Mesh& mesh);

// Whether a node uses its elements many times over: products, convolutions, attention.
bool is_contraction(const ir::Graph& graph, ir::NodeId node, const ops::Rule& rule);

}  // namespace moai::plan
