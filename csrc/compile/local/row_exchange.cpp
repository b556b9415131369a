#include "compile/local/row_exchange.h"

#include <string>
#include <utility>

#include "ir/error.h"

namespace moai::compile {

namespace {

using ir::Dims;
using ir::Type;
using ir::ValueId;

// Over whole rows along `dim`, of which the device has a part.
ValueId reduced(LocalBuilder& b, const char* op, ValueId x, int64_t dim, const std::vector<int64_t>& axes,
                const char* reduction) {
  Dims sizes = b.type(x).sizes;
  sizes[dim] = 1;
  Type type = dense_like(b.type(x), std::move(sizes));
  std::vector<ir::Arg> more{Dims{dim}, true};
  if (std::string(op) == "aten.sum.dim_IntList") more.emplace_back(ir::NoneArg{});
  Collective call;
  call.axes = axes;
  call.reduction = reduction;
  return b.collective(b.add(op, {x}, std::move(more), std::move(type)), call, 0);
}

}  // namespace

ValueId exchange_rows(LocalBuilder& b, const ops::Factor& row, const std::vector<int64_t>& axes,
                      const std::vector<ValueId>& operands, ir::DType dtype) {
  const int64_t dim = row.exchange_dim;
  std::vector<ValueId> x;
  for (const auto operand : operands) {
    const auto own = b.type(operand).dtype;
    const bool is_low = own == ir::DType::kF16 || own == ir::DType::kBF16;
    x.push_back(b.to_dtype(operand, is_low ? ir::DType::kF32 : own));
  }
  const auto sum = [&](ValueId of) { return reduced(b, "aten.sum.dim_IntList", of, dim, axes, "sum"); };
  const auto most = [&](ValueId of) { return reduced(b, "aten.amax", of, dim, axes, "max"); };
  const auto minus = [&](ValueId a, ValueId c) {
    return b.pointwise("aten.sub.Tensor", {a, c}, {int64_t{1}});
  };
  const auto times = [&](ValueId a, ValueId c) { return b.pointwise("aten.mul.Tensor", {a, c}); };
  const auto exp = [&](ValueId of) { return b.pointwise("aten.exp", {of}); };
  ValueId out = ir::kNone;
  switch (row.exchange) {
    case ops::Exchange::kSoftmax: {
      const ValueId e = exp(minus(x[0], most(x[0])));
      out = b.pointwise("aten.div.Tensor", {e, sum(e)});
      break;
    }
    case ops::Exchange::kLogSoftmax: {
      const ValueId below = minus(x[0], most(x[0]));
      out = minus(below, b.pointwise("aten.log", {sum(exp(below))}));
      break;
    }
    case ops::Exchange::kSoftmaxBackward: {
      out = times(x[1], minus(x[0], sum(times(x[0], x[1]))));
      break;
    }
    case ops::Exchange::kLogSoftmaxBackward: {
      out = minus(x[0], times(exp(x[1]), sum(x[0])));
      break;
    }
    case ops::Exchange::kNone: MOAI_ASSERT(false, "nothing goes round"); break;
  }
  return b.to_dtype(out, dtype);
}

}  // namespace moai::compile
