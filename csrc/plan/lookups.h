#pragma once

#include <cstdint>
#include <vector>

#include "ir/graph.h"

namespace moai::plan {

// What a step looks up in tables of embeddings: its tokens, in however many tensors they come, and whether
// these are inputs or cut from a data set that lies on the devices.
struct Lookups {
  int64_t tokens = 0;          // in the table that is asked most; 0 where nothing is looked up
  std::vector<int64_t> sizes;  // of the largest of its tensors of indices
};

// Indices that come from no integer input are positions that the step counts itself, and what backward looks
// up has been looked up before: neither are tokens.
Lookups find_lookups(const ir::Graph& graph);

}  // namespace moai::plan
