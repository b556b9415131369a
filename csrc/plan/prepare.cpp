#include "plan/prepare.h"

#include "plan/route_rows.h"
#include "plan/split_lists.h"

namespace moai::plan {

ir::Graph prepare(const ir::Graph& graph) { return route_rows(split_lists(graph)); }

}  // namespace moai::plan
