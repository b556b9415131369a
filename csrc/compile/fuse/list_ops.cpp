// What each op on lists of tensors that is fused computes with one element of each list; see fused_ops.cpp.

#include "compile/fuse/list_ops.h"

#include <algorithm>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace moai::compile {

namespace {

using ir::DType;

void refuse_unless_floating(StepWriter& w) {
  const DType dtype = w.dtype();
  if (dtype != DType::kF64 && dtype != DType::kF32 && dtype != DType::kF16 && dtype != DType::kBF16)
    w.refuse();
}

#define MOAI_TEXT(name, code) constexpr const char* name = code
MOAI_TEXT(kAdd, "$0 + $1");
MOAI_TEXT(kSub, "$0 - $1");
MOAI_TEXT(kMul, "$0 * $1");
MOAI_TEXT(kDiv, "$0 / $1");
MOAI_TEXT(kMaximum, "($0 != $0 || $0 > $1 ? $0 : $1)");
MOAI_TEXT(kAddScaled, "$0 + $1 * $2");
MOAI_TEXT(kSubScaled, "$0 - $1 * $2");
MOAI_TEXT(kAddcmul, "$0 + $3 * $1 * $2");
MOAI_TEXT(kAddcdiv, "$0 + $3 * $1 / $2");
MOAI_TEXT(kLerp, "(($2 < 0 ? -$2 : $2) < @0.5 ? $0 + $2 * ($1 - $0) : $1 - ($1 - $0) * (1 - $2))");
MOAI_TEXT(kNeg, "-$0");
MOAI_TEXT(kAbs, "($0 <= 0 ? 0 - $0 : $0)");  // of -0: 0
MOAI_TEXT(kSqrt, "sqrt($0)");
MOAI_TEXT(kReciprocal, "1 / $0");
MOAI_TEXT(kExp, "exp($0)");
MOAI_TEXT(kSign, "(($0 > 0) - ($0 < 0))");
#undef MOAI_TEXT

// result = text of the first `count` arguments
template <const char* const& text, size_t count>
void of(StepWriter& w) {
  refuse_unless_floating(w);
  std::vector<int32_t> args;
  for (size_t arg = 0; arg < count; ++arg) args.push_back(w.like_result(arg));
  w.result(w.wide(text, std::move(args)));
}

void copy(StepWriter& w) { w.result(w.value(1)); }
void zero(StepWriter& w) {
  refuse_unless_floating(w);
  w.result(w.apply("0", {}, w.dtype()));
}

// (self, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, state_steps, lr, beta1, beta2, weight_decay, eps,
//  amsgrad, maximize, grad_scale, found_inf)
template <bool decoupled>
void adam(StepWriter& w) {
  refuse_unless_floating(w);
  enum Arg { kParam, kGrad, kFirst, kSecond, kLargest, kStep, kLr, kBeta1, kBeta2, kDecay, kEps, kAmsgrad };
  enum Flag { kMaximize = kAmsgrad + 1, kGradScale, kFoundInf };
  const auto number = [&](size_t arg) { return w.wide("$0", {w.value(arg)}); };
  const int32_t lr = number(kLr), beta1 = number(kBeta1), beta2 = number(kBeta2), decay = number(kDecay);
  // Once for each tensor, and so near to 1 that f32 would lose digits.
  const auto exact = [&](size_t arg) { return w.apply("$0", {w.value(arg)}, DType::kF64); };
  const int32_t step = exact(kStep);
  const int32_t step_size =
      w.wide("$0", {w.apply("$0 / (1 - pow($1, $2))", {exact(kLr), exact(kBeta1), step}, DType::kF64)});
  const int32_t correction =
      w.wide("$0", {w.apply("sqrt(1 - pow($0, $1))", {exact(kBeta2), step}, DType::kF64)});

  int32_t grad = w.like_result(kGrad);
  if (!w.is_none(kGradScale)) grad = w.wide("$0 / $1", {grad, number(kGradScale)});
  const int32_t unscaled = grad;
  if (w.flag(kMaximize)) grad = w.wide("-$0", {grad});
  int32_t param = w.like_result(kParam);
  if (decoupled) {
    param = w.wide("$0 - $1 * $2 * $0", {param, lr, decay});
  } else {
    grad = w.wide("$0 + $1 * $2", {grad, param, decay});
  }
  const int32_t first = w.wide("$0 + (1 - $2) * ($1 - $0)", {w.like_result(kFirst), grad, beta1});
  const int32_t second = w.wide("$2 * $0 + (1 - $2) * $1 * $1", {w.like_result(kSecond), grad, beta2});
  int32_t largest = second;
  if (w.flag(kAmsgrad)) largest = w.wide(kMaximum, {w.like_result(kLargest), second});
  const int32_t denominator = w.wide("sqrt($0) / $1 + $2", {largest, correction, number(kEps)});
  param = w.wide("$0 - $1 * $2 / $3", {param, step_size, first, denominator});

  const auto update = [&](size_t arg, int32_t to) {
    // Where a gradient was infinite the step does not happen.
    if (!w.is_none(kFoundInf)) to = w.wide("($0 == 1 ? $1 : $2)", {number(kFoundInf), w.value(arg), to});
    w.update(arg, to);
  };
  update(kParam, param);
  update(kGrad, unscaled);
  update(kFirst, first);
  update(kSecond, second);
  if (w.flag(kAmsgrad)) update(kLargest, largest);
}

const std::unordered_map<std::string, ListOp>& table() {
  static const std::unordered_map<std::string, ListOp> table{
      {"_foreach_add.Scalar", of<kAdd, 2>},
      {"_foreach_add.ScalarList", of<kAdd, 2>},
      {"_foreach_add.List", of<kAddScaled, 3>},
      {"_foreach_add.Tensor", of<kAddScaled, 3>},
      {"_foreach_sub.Scalar", of<kSub, 2>},
      {"_foreach_sub.ScalarList", of<kSub, 2>},
      {"_foreach_sub.List", of<kSubScaled, 3>},
      {"_foreach_mul.Scalar", of<kMul, 2>},
      {"_foreach_mul.ScalarList", of<kMul, 2>},
      {"_foreach_mul.List", of<kMul, 2>},
      {"_foreach_mul.Tensor", of<kMul, 2>},
      {"_foreach_div.Scalar", of<kDiv, 2>},
      {"_foreach_div.ScalarList", of<kDiv, 2>},
      {"_foreach_div.List", of<kDiv, 2>},
      {"_foreach_div.Tensor", of<kDiv, 2>},
      {"_foreach_maximum.List", of<kMaximum, 2>},
      {"_foreach_addcmul.Scalar", of<kAddcmul, 4>},
      {"_foreach_addcmul.ScalarList", of<kAddcmul, 4>},
      {"_foreach_addcdiv.Scalar", of<kAddcdiv, 4>},
      {"_foreach_addcdiv.ScalarList", of<kAddcdiv, 4>},
      {"_foreach_lerp.Scalar", of<kLerp, 3>},
      {"_foreach_lerp.ScalarList", of<kLerp, 3>},
      {"_foreach_lerp.List", of<kLerp, 3>},
      {"_foreach_neg", of<kNeg, 1>},
      {"_foreach_abs", of<kAbs, 1>},
      {"_foreach_sqrt", of<kSqrt, 1>},
      {"_foreach_reciprocal", of<kReciprocal, 1>},
      {"_foreach_exp", of<kExp, 1>},
      {"_foreach_sign", of<kSign, 1>},
      {"_foreach_copy", copy},
      {"_foreach_zero", zero},
      {"_fused_adam", adam<false>},
      {"_fused_adam.tensor_lr", adam<false>},
      {"_fused_adamw", adam<true>},
      {"_fused_adamw.tensor_lr", adam<true>},
  };
  return table;
}

}  // namespace

ListOp list_op(ir::Symbol op) {
  static const std::string aten = "aten.";
  std::string name = op.str();
  if (name.compare(0, aten.size() + 1, aten + "_") != 0) return nullptr;
  name = name.substr(aten.size());
  // In place or not, the numbers are the same.
  const size_t end = std::min(name.find('.'), name.size());
  if (name[end - 1] == '_') name.erase(end - 1, 1);
  const auto found = table().find(name);
  return found == table().end() ? nullptr : found->second;
}

}  // namespace moai::compile
