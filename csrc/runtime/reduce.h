#pragma once

#include <cstdint>

#include "ir/type.h"
#include "runtime/communicator.h"

namespace moai::runtime {

// Whether there is such a reduction of such elements. Complex numbers have sums and means.
bool can_reduce(ir::DType dtype, Reduce reduce);

// targets[*][i] := sources[0][i] (op) sources[1][i] (op) ... for `elements` elements, combined from left to
// right whatever the memory looks like. Reads each source once and writes each target once, in blocks that
// stay in the first cache, so that a target which is a source costs no second read from memory. A target may
// be a source; they may not overlap otherwise.
void reduce(ir::DType dtype, Reduce reduce, const void* const* sources, int source_count,
            void* const* targets, int target_count, int64_t elements);

}  // namespace moai::runtime
