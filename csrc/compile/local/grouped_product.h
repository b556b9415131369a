#pragma once

#include <optional>
#include <vector>

#include "compile/local/local_builder.h"
#include "compile/local/parts.h"

namespace moai::compile {

// Note [Groups of another device]
// `_grouped_mm` multiplies runs of rows (a's; or columns of b, or of what is summed), each with its own
// matrix; a run ends where the offsets say, which are data, and the first one begins at row 0. A device that
// has some of the groups turns the rows round so that its own come first, counts the offsets from there, and
// turns the result back; rows of other devices' groups are zero, so that a sum is the whole. The kernel
// passes over what lies behind the last offset: each device multiplies its own rows only. Rows behind the
// last group of all, which torch leaves undefined, are zero.

// Writes a `_grouped_mm` whose operands are parts, but for the offsets: those are whole. `groups` is the
// device's part of them; nothing where they are not split. The result has the sizes of `result`, and is laid
// out like it where nothing was padded.
//
// Kernels want rows of whole 16 bytes: where a part's are not, operands are padded with zeros.
ir::ValueId grouped_product(LocalBuilder& builder, ir::Node node, std::vector<ir::ValueId> operands,
                            const ir::Type& result, std::optional<Part> groups);

}  // namespace moai::compile
