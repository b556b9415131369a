#include <iterator>
#include <string>

#include "ir/symbol.h"
#include "ops/rule_builder.h"
#include "ops/traits.h"

namespace moai::ops {

namespace {

// Pointwise, besides those of traits.cpp: their results may not take an operand's memory.
constexpr const char* kOthers[] = {
    "eq.Tensor",
    "eq.Scalar",
    "ne.Tensor",
    "ne.Scalar",
    "lt.Tensor",
    "lt.Scalar",
    "le.Tensor",
    "le.Scalar",
    "gt.Tensor",
    "gt.Scalar",
    "ge.Tensor",
    "ge.Scalar",
    "isnan",
    "isinf",
    "floor",
    "ceil",
    "round",
    "trunc",
    "frac",
    "remainder.Tensor",
    "remainder.Scalar",
    "fmod.Tensor",
    "fmod.Scalar",
    "floor_divide",
    "exp2",
    "log2",
    "log10",
    "acos",
    "asin",
    "atan",
    "atan2",
    "cosh",
    "sinh",
    "tan",
    "erfc",
    "erfinv",
    "nan_to_num",
    "copysign.Tensor",
    "div.Scalar",
    "fill.Scalar",
    "fill.Tensor",
    "zero",
    "copy",
    "clone",
    "_to_copy",
    "contiguous",
    "hypot",
    "xlogy.Tensor",
    "bitwise_and.Scalar",
    "bitwise_or.Scalar",
    "log_sigmoid_forward",
    "hardtanh_backward",
    "hardsigmoid_backward",
    "hardswish_backward",
    "leaky_relu_backward",
    "elu_backward",
    "softplus_backward",
    "native_dropout_backward",
    "floor_divide.Scalar",
    "celu",
    "selu",
    "relu6",
    "mish_backward",
    "log_sigmoid_backward",
    "logit_backward",
    "fmax",
    "fmin",
    "clamp_min.Tensor",
    "clamp_max.Tensor",
};

// In which operands they are linear: by themselves, or (`a+b`) together. Backward ops are linear in the
// gradient that comes in, their first operand.
void say_linear(RuleBuilder& b, const std::string& name) {
  const auto is = [&](std::initializer_list<const char*> names) {
    for (const char* one : names) {
      if (name == one) return true;
    }
    return false;
  };
  if (is({"neg", "mul.Scalar", "div.Scalar", "clone", "contiguous"})) b.linear({0});
  if (is({"_to_copy"})) b.linear({0});
  if (is({"mul.Tensor"})) {
    b.linear({0});
    if (b.node().operands.size() > 1) b.linear({1});
  }
  if (is({"div.Tensor"})) b.linear({0});
  const bool two = b.node().operands.size() == 2;
  if (two && is({"add.Tensor", "sub.Tensor", "rsub.Tensor", "lerp.Scalar"})) b.linear({0, 1});
  if (two && is({"copy"})) b.linear({0, 1});
  if (is({"where.self"})) b.linear({b.operand(1), b.operand(2)});
  if (name.find("_backward") != std::string::npos && !is({"log_sigmoid_backward"})) b.linear({0});
}

}  // namespace

std::vector<std::string> pointwise_rules() {
  auto names = pointwise_ops();
  names.insert(names.end(), std::begin(kOthers), std::end(kOthers));
  return names;
}

void add_pointwise(RuleTable& table) {
  const auto add = [&](const std::string& name) {
    table[name] = [name](RuleBuilder& b) {
      b.broadcast();
      say_linear(b, name);
    };
  };
  for (const auto& name : pointwise_rules()) add(name);
}

}  // namespace moai::ops
