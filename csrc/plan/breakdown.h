#pragma once

#include <string>
#include <vector>

#include "plan/assign.h"
#include "plan/op_cost.h"

namespace moai::plan {

// What a device does in a step and for how long, nothing overlapping; in a pipeline the mean over stages,
// without what crosses between them.
struct Breakdown {
  struct Op {
    std::string name;
    double count = 0;    // that run, all turns
    double seconds = 0;  // that count: the larger of computing and moving, and the rest
    OpCost cost;         // the same by what takes it; here only one of computing and moving is not zero
  };
  struct Message {
    Collective collective = Collective::kAllReduce;
    size_t axis = 0;           // of the mesh
    bool is_gradient = false;  // of gradients and updated weights: once a step
    double count = 0;
    double bytes = 0;  // of whole buffers
    double seconds = 0;
  };
  OpCost compute;                 // of all ops
  std::vector<Op> ops;            // the longest first
  std::vector<Message> messages;  // the longest first
};
Breakdown breakdown(const Step& step, const Frame& turn, const Mesh& mesh, const Terms& terms,
                    const Assignment& assignment);

}  // namespace moai::plan
