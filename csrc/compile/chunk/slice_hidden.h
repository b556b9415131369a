#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "ir/graph.h"

namespace moai::compile {

// Where a step takes some tokens' logits alone (all but a sequence's last, as labels are shifted), takes
// these tokens' hidden states before the head: its products, forward and backward, are then over the rows
// that the loss has, and can go in chunks with it. Where logits have more than `most_bytes`; `graph` has
// strided views.
//
// `numbers`: the step's, or none, and which of them vary. What comes out holds for steps with the same ones
// at the positions that `offsets` takes, with their values.
ir::Graph slice_hidden(const ir::Graph& graph, int64_t most_bytes, const std::vector<int64_t>& numbers,
                       const std::vector<bool>& varies, std::vector<std::pair<int32_t, int64_t>>* offsets);

}  // namespace moai::compile
