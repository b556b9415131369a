#include "compile/local/turn_sums.h"

#include "ir/error.h"

namespace moai::compile {

using ir::ValueId;
using ops::Combine;

namespace {

const char* op_of(Combine how) {
  switch (how) {
    case Combine::kProduct: return "aten.mul.Tensor";
    case Combine::kMax: return "aten.maximum";
    case Combine::kMin: return "aten.minimum";
    case Combine::kAny: return "aten.logical_or";
    case Combine::kAll: return "aten.logical_and";
    default: return "aten.add.Tensor";
  }
}

ValueId together(LocalBuilder& b, Combine how, ValueId a, ValueId c) {
  const std::string op = op_of(how);
  std::vector<ir::Arg> more;
  if (op == "aten.add.Tensor") more.emplace_back(int64_t{1});
  return b.pointwise(op.c_str(), {a, c}, std::move(more));
}

ValueId times(LocalBuilder& b, ValueId a, ValueId c) { return b.pointwise("aten.mul.Tensor", {a, c}); }

}  // namespace

void TurnSums::carry(const ir::Graph& whole, ValueId value, Combine how, int32_t turns) {
  if (how == Combine::kUnknown) {
    throw Error(Phase::kCompile, "parts of the batch do not tell what all of it makes")
        .detail(ir::print(whole, whole.value(value).producer));
  }
  sums_.insert({value, {how, turns}});
}

ValueId TurnSums::add(LocalBuilder& b, ValueId value, ValueId local, ValueId weight) {
  const auto it = sums_.find(value);
  if (it == sums_.end()) return ir::kNone;
  Sum& sum = it->second;
  if (sum.how == Combine::kNorm2) local = times(b, local, local);
  if (sum.how == Combine::kWeighted) {
    // A turn of no weight has no mean, and counts nothing.
    const ValueId nothing = b.pointwise("aten.eq.Scalar", {weight}, {int64_t{0}}, ir::DType::kBool);
    local = b.pointwise("aten.masked_fill.Scalar", {times(b, local, weight), nothing}, {int64_t{0}});
    sum.weight = sum.weight == ir::kNone ? weight : together(b, Combine::kSum, sum.weight, weight);
  }
  if (sum.local == ir::kNone) {
    sum.local = local;
  } else if (sum.how != Combine::kSame) {
    sum.local = together(b, sum.how, sum.local, local);
  }
  if (++sum.added < sum.turns) return ir::kNone;
  if (sum.how == Combine::kMean) return b.pointwise("aten.div.Scalar", {sum.local}, {int64_t{sum.turns}});
  if (sum.how == Combine::kNorm2) return b.pointwise("aten.sqrt", {sum.local});
  if (sum.how == Combine::kWeighted) return b.pointwise("aten.div.Tensor", {sum.local, sum.weight});
  return sum.local;
}

}  // namespace moai::compile
