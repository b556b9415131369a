#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "ir/graph.h"
#include "ir/view.h"

namespace moai::ir {

// The step that a canonical view's op and arguments say (moai.slice, moai.permute, …; see
// canonicalise_views); nothing of other ops.
std::optional<ViewStep> step_of(Symbol op, const std::vector<Arg>& args);

// Which argument of a strided view or an update says where it begins in what it is of; kNone of an operator.
inline int32_t offset_arg(const Node& node) {
  if (node.kind == NodeKind::kView) return 0;
  return node.kind == NodeKind::kUpdate ? 2 : kNone;
}

}  // namespace moai::ir
