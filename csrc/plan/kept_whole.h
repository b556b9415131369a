#pragma once

#include <string>
#include <vector>

#include "plan/atoms.h"

namespace moai::plan {

// What no split reaches: the part of a step that every device would do again.
struct KeptWhole {
  struct Op {
    std::string op;
    std::string why;
    double flops = 0;
    double bytes = 0;
    int32_t nodes = 0;
  };
  double flops_share = 0;  // of the whole step's
  double bytes_share = 0;
  std::vector<Op> ops;  // the most bytes first
};

// A node is kept whole where none of its factors can be split, though it has more than one element to work
// on.
KeptWhole kept_whole(const ir::Graph& graph, const Frame& frame);

}  // namespace moai::plan
