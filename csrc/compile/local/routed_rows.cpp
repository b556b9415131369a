#include "compile/local/routed_rows.h"

#include <string>
#include <utility>

#include "compile/local/row_order.h"
#include "ir/error.h"
#include "ops/routed_rows.h"

namespace moai::compile {

namespace {

using ir::Type;
using ir::ValueId;

ir::Arg operand(int32_t number) { return ir::OperandRef{number}; }
ir::Arg index(int32_t number) { return ir::OperandListRef{{number}}; }

}  // namespace

std::vector<ValueId> routed_rows(LocalBuilder& b, const ir::Node& node, const std::vector<ValueId>& operands,
                                 const std::vector<Type>& results) {
  const ops::RoutedRows& all = ops::routed_rows();
  if (node.op == all.sort) {
    const auto [ids, order] = sorted(b, operands[0]);
    return {ids, order};
  }
  if (node.op == all.inverse) return {inverse_order(b, operands[0])};
  ir::Node local;
  local.section = node.section;
  local.origin = node.origin;
  local.operands = operands;
  if (node.op == all.put) {
    const bool is_scaled = node.args.size() > 4;
    std::string op = is_scaled ? "aten.index_add" : "aten.index_put";
    if (!node.tied.empty()) op += '_';
    local.op = ir::Symbol::intern(op);
    local.tied = node.tied;
    if (is_scaled) {
      local.args = {operand(0), int64_t{0}, operand(1), operand(2), node.args[4]};
    } else {
      local.args = {operand(0), index(1), operand(2), std::get<bool>(node.args[3])};
    }
  } else {
    MOAI_ASSERT(node.op == all.take || node.op == all.give_back, "no op of routed rows: ", node.op.str());
    local.op = ir::Symbol::intern("aten.index.Tensor");
    local.args = {operand(0), index(1)};
  }
  return b.graph().node(b.graph().add_node(std::move(local), results)).results;
}

}  // namespace moai::compile
