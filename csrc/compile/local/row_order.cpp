#include "compile/local/row_order.h"

namespace moai::compile {

namespace {

using ir::Type;
using ir::ValueId;

ir::Arg operand(int32_t number) { return ir::OperandRef{number}; }

// How many sorted ids are less than each of `of`, or no more.
ValueId count_below(LocalBuilder& b, ValueId sorted_ids, ValueId of, bool counts_equal, ir::DType dtype) {
  // (sorted sequence, values, out_int32, right, side, sorter)
  return b.add_call(
      "aten.searchsorted.Tensor", {sorted_ids, of},
      {operand(0), operand(1), dtype == ir::DType::kI32, counts_equal, ir::NoneArg{}, ir::NoneArg{}},
      Type::contiguous(dtype, b.type(of).sizes));
}

}  // namespace

std::pair<ValueId, ValueId> sorted(LocalBuilder& b, ValueId ids) {
  const Type type = Type::contiguous(ir::DType::kI64, b.type(ids).sizes);
  ir::Node sort;
  sort.op = ir::Symbol::intern("aten.sort.stable");
  sort.operands = {ids};
  sort.args = {operand(0), true, int64_t{0}, false};
  const auto& results = b.add_node(std::move(sort), {type, type}).results;
  return {results[0], results[1]};
}

ValueId inverse_order(LocalBuilder& b, ValueId order) {
  const int64_t rows = b.type(order).sizes[0];
  return b.add_call("aten.scatter.src", {b.full(ir::DType::kI64, {rows}, 0), order, b.count_up(rows)},
                    {operand(0), int64_t{0}, operand(1), operand(2)},
                    Type::contiguous(ir::DType::kI64, {rows}));
}

ValueId group_begins(LocalBuilder& b, ValueId sorted_ids, int64_t count) {
  return count_below(b, sorted_ids, b.count_up(count), false, ir::DType::kI64);
}

ValueId group_ends(LocalBuilder& b, ValueId sorted_ids, const plan::Part& groups) {
  const ValueId of = b.contiguous(b.slice(b.count_up(groups.end()), 0, groups.start, groups.length));
  return count_below(b, sorted_ids, of, true, ir::DType::kI32);
}

}  // namespace moai::compile
