#pragma once

#include <optional>

#include "compile/local/local_builder.h"
#include "plan/part.h"

namespace moai::compile {

// Who sends rows to whom, seen from one device: see Note [Rows by expert] in ops/expert_rows.h.
struct RowTrade {
  std::optional<int64_t> axis;      // along which; nothing where the device has all experts
  size_t own = 0;                   // its position there
  std::vector<plan::Part> experts;  // by member: whose rows it gets
  std::vector<int64_t> slots;       // by member: that it has for each expert's rows, by origin

  int64_t count() const { return experts.back().end(); }  // of experts
};

// What a node of Note [Rows by expert] that moves rows does on a device.
std::vector<ir::ValueId> move_rows(LocalBuilder& builder, const ir::Node& node,
                                   const std::vector<ir::ValueId>& operands, const RowTrade& trade);

// What a node of the same note that looks up experts by rows, or adds rows to them, does where a part of the
// experts is.
ir::ValueId by_expert(LocalBuilder& builder, const ir::Node& node, const std::vector<ir::ValueId>& operands,
                      const plan::Part& experts);

// Where the runs of equal ids end, of the ids of a part of all groups; i32.
ir::ValueId group_ends(LocalBuilder& builder, ir::ValueId sorted_ids, const plan::Part& groups);

}  // namespace moai::compile
