// What each op that is fused computes, a line or a few for each. Texts are C++ and CUDA alike; numbers of the
// half types arrive as floats, as ATen computes with them;
// `@0.5` is a number of the type that is computed with.

#include <string>
#include <unordered_map>

#include "compile/fuse/step_writer.h"

namespace moai::compile {

namespace {

using ir::DType;
using Columns = FusedOp::Columns;
using Reduction = Step::Reduction;

bool is_floating(DType dtype) {
  return dtype == DType::kF64 || dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

void refuse_unless_floating(StepWriter& w) {
  if (!is_floating(w.dtype())) w.refuse();
}

// result = text of argument 0
template <const char* const& text>
void unary(StepWriter& w) {
  refuse_unless_floating(w);
  w.result(w.wide(text, {w.like_result(0)}));
}

// … of integers too
template <const char* const& text>
void unary_of_any(StepWriter& w) {
  if (w.dtype() == DType::kBool) w.refuse();
  w.result(w.wide(text, {w.like_result(0)}));
}

// result = text of arguments 0 and 1
template <const char* const& text>
void binary(StepWriter& w) {
  if (w.dtype() == DType::kBool) w.refuse();
  w.result(w.wide(text, {w.like_result(0), w.like_result(1)}));
}

template <const char* const& text>
void binary_of_floats(StepWriter& w) {
  refuse_unless_floating(w);
  binary<text>(w);
}

// result = text of arguments 0, 1 and 2
template <const char* const& text>
void scaled_sum(StepWriter& w) {
  if (w.dtype() == DType::kBool) w.refuse();
  w.result(w.wide(text, {w.like_result(0), w.like_result(1), w.like_result(2)}));
}

template <const char* const& text>
void comparison(StepWriter& w) {
  const DType dtype = w.dtype_of(0);
  w.result(w.apply(text, {w.like(0, dtype), w.like(1, dtype)}, DType::kBool));
}

#define MOAI_TEXT(name, code) constexpr const char* name = code
MOAI_TEXT(kNeg, "-$0");
MOAI_TEXT(kAbs, "($0 <= 0 ? 0 - $0 : $0)");  // of -0: 0
MOAI_TEXT(kExp, "exp($0)");
MOAI_TEXT(kLog, "log($0)");
MOAI_TEXT(kSqrt, "sqrt($0)");
MOAI_TEXT(kRsqrt, "1 / sqrt($0)");
MOAI_TEXT(kReciprocal, "1 / $0");
MOAI_TEXT(kSin, "sin($0)");
MOAI_TEXT(kCos, "cos($0)");
MOAI_TEXT(kTanh, "tanh($0)");
MOAI_TEXT(kErf, "erf($0)");
MOAI_TEXT(kSigmoid, "1 / (1 + exp(-$0))");
MOAI_TEXT(kSilu, "$0 / (1 + exp(-$0))");
MOAI_TEXT(kRelu, "($0 < 0 ? 0 : $0)");
MOAI_TEXT(kAdd, "$0 + $1 * $2");
MOAI_TEXT(kSub, "$0 - $1 * $2");
MOAI_TEXT(kRsub, "$1 - $0 * $2");
MOAI_TEXT(kMul, "$0 * $1");
MOAI_TEXT(kDiv, "$0 / $1");
MOAI_TEXT(kPow, "pow($0, $1)");
MOAI_TEXT(kMaximum, "($0 != $0 || $0 > $1 ? $0 : $1)");
MOAI_TEXT(kMinimum, "($0 != $0 || $0 < $1 ? $0 : $1)");
MOAI_TEXT(kGt, "$0 > $1");
MOAI_TEXT(kGe, "$0 >= $1");
MOAI_TEXT(kLt, "$0 < $1");
MOAI_TEXT(kLe, "$0 <= $1");
MOAI_TEXT(kEq, "$0 == $1");
MOAI_TEXT(kNe, "$0 != $1");
MOAI_TEXT(kTanhBackward, "$0 * (1 - $1 * $1)");
MOAI_TEXT(kSigmoidBackward, "$0 * (1 - $1) * $1");
MOAI_TEXT(kSiluBackward, "$0 / (1 + exp(-$1)) * (1 + $1 * (1 - 1 / (1 + exp(-$1))))");
#undef MOAI_TEXT

void same(StepWriter& w) { w.result(w.value(0)); }

void where(StepWriter& w) {
  if (w.dtype_of(0) != DType::kBool) w.refuse();
  w.result(w.apply("($0 != 0 ? $1 : $2)", {w.value(0), w.like_result(1), w.like_result(2)},
                   wide_dtype(w.dtype())));
}

void masked_fill(StepWriter& w) {
  if (w.dtype_of(1) != DType::kBool) w.refuse();
  w.result(w.apply("($1 != 0 ? $2 : $0)", {w.like_result(0), w.value(1), w.like_result(2)},
                   wide_dtype(w.dtype())));
}

void flip(StepWriter& w) {
  if (w.dtype_of(0) != DType::kBool) w.refuse();
  w.result(w.apply("$0 == 0", {w.value(0)}, DType::kBool));
}
void logical_not(StepWriter& w) { w.result(w.apply("$0 == 0", {w.value(0)}, DType::kBool)); }
void both(StepWriter& w) {
  if (w.dtype_of(0) != DType::kBool || w.dtype_of(1) != DType::kBool) w.refuse();
  w.result(w.apply("$0 != 0 && $1 != 0", {w.value(0), w.value(1)}, DType::kBool));
}
void either(StepWriter& w) {
  if (w.dtype_of(0) != DType::kBool || w.dtype_of(1) != DType::kBool) w.refuse();
  w.result(w.apply("$0 != 0 || $1 != 0", {w.value(0), w.value(1)}, DType::kBool));
}

// A square is a product, here as in ATen, and by far the most frequent power.
void pow_of_number(StepWriter& w) {
  refuse_unless_floating(w);
  const int32_t x = w.like_result(0);
  w.is_static(1, 2) ? w.result(w.wide("$0 * $0", {x})) : w.result(w.wide(kPow, {x, w.like_result(1)}));
}

void clamp(StepWriter& w) {
  if (w.dtype() == DType::kBool) w.refuse();
  int32_t x = w.like_result(0);
  if (!w.is_none(1)) x = w.wide("($0 < $1 || ($1 != $1 && $0 == $0) ? $1 : $0)", {x, w.like_result(1)});
  if (!w.is_none(2)) x = w.wide("($0 > $1 || ($1 != $1 && $0 == $0) ? $1 : $0)", {x, w.like_result(2)});
  w.result(x);
}

// The layout that it asks for is that of the result's type.
void to_copy(StepWriter& w) { w.result(w.value(0)); }

void threshold_backward(StepWriter& w) {
  if (w.dtype() == DType::kBool) w.refuse();
  w.result(w.wide("($1 <= $2 ? 0 : $0)", {w.like_result(0), w.like_result(1), w.like_result(2)}));
}

constexpr const char* kBetaCubic = "(@0.7978845608028654 * ($0 + @0.044715 * $0 * $0 * $0))";

void gelu(StepWriter& w) {
  refuse_unless_floating(w);
  const int32_t x = w.like_result(0);
  if (w.text(1) != "tanh") return w.result(w.wide("$0 * @0.5 * (1 + erf($0 * @0.7071067811865476))", {x}));
  w.result(w.wide("@0.5 * $0 * (1 + tanh($1))", {x, w.wide(kBetaCubic, {x})}));
}

void gelu_backward(StepWriter& w) {
  refuse_unless_floating(w);
  const int32_t grad = w.like_result(0);
  const int32_t x = w.like_result(1);
  if (w.text(2) != "tanh") {
    const int32_t cdf = w.wide("@0.5 * (1 + erf($0 * @0.7071067811865476))", {x});
    const int32_t pdf = w.wide("@0.3989422804014327 * exp(-@0.5 * $0 * $0)", {x});
    return w.result(w.wide("$0 * ($1 + $2 * $3)", {grad, cdf, x, pdf}));
  }
  const int32_t tanh = w.wide("tanh($0)", {w.wide(kBetaCubic, {x})});
  const int32_t slope = w.wide("@0.7978845608028654 * (1 + @0.134145 * $0 * $0)", {x});
  w.result(w.wide("$0 * (@0.5 * (1 + $1) + @0.5 * $2 * (1 - $1 * $1) * $3)", {grad, tanh, x, slope}));
}

// ---- Over a row's columns

void sum(StepWriter& w) {
  // Of bool and integers it counts in i64, whatever dtype is asked for.
  w.result(w.reduce(Reduction::kSum, w.apply("$0", {w.value(0)}, wide_dtype(w.dtype()))));
}

void mean(StepWriter& w) {
  refuse_unless_floating(w);
  const int32_t total = w.reduce(Reduction::kSum, w.apply("$0", {w.value(0)}, wide_dtype(w.dtype())));
  w.result(w.apply("$0 / columns", {total}, wide_dtype(w.dtype())));
}

void amax(StepWriter& w) { w.result(w.reduce(Reduction::kMax, w.like_result(0))); }
void amin(StepWriter& w) { w.result(w.reduce(Reduction::kMin, w.like_result(0))); }

void softmax(StepWriter& w) {
  const int32_t x = w.wide("$0", {w.value(0)});
  const int32_t e = w.wide("exp($0 - $1)", {x, w.reduce(Reduction::kMax, x)});
  w.result(w.wide("$0 / $1", {e, w.reduce(Reduction::kSum, e)}));
}

void log_softmax(StepWriter& w) {
  const int32_t x = w.wide("$0", {w.value(0)});
  const int32_t most = w.reduce(Reduction::kMax, x);
  const int32_t total = w.reduce(Reduction::kSum, w.wide("exp($0 - $1)", {x, most}));
  w.result(w.wide("$0 - $1 - log($2)", {x, most, total}));
}

void softmax_backward(StepWriter& w) {
  const int32_t grad = w.value(0);
  const int32_t y = w.value(1);
  const int32_t total = w.reduce(Reduction::kSum, w.wide("$0 * $1", {grad, y}));
  w.result(w.wide("($0 - $2) * $1", {grad, y, total}));
}

void log_softmax_backward(StepWriter& w) {
  const int32_t grad = w.wide("$0", {w.value(0)});
  const int32_t y = w.wide("$0", {w.value(1)});
  w.result(w.wide("$0 - exp($1) * $2", {grad, y, w.reduce(Reduction::kSum, grad)}));
}

// (input, normalized_shape, weight, bias, eps) -> (out, mean, rstd)
void layer_norm(StepWriter& w) {
  refuse_unless_floating(w);
  const int32_t x = w.wide("$0", {w.value(0)});
  const int32_t mean = w.wide("$0 / columns", {w.reduce(Reduction::kSum, x)});
  const int32_t apart = w.wide("$0 - $1", {x, mean});
  const int32_t variance = w.wide("$0 / columns", {w.reduce(Reduction::kSum, w.wide("$0 * $0", {apart}))});
  const int32_t scale = w.wide("1 / sqrt($0 + $1)", {variance, w.wide("$0", {w.value(4)})});
  int32_t out = w.wide("$0 * $1", {apart, scale});
  if (!w.is_none(2)) out = w.wide("$0 * $1", {out, w.value(2)});
  if (!w.is_none(3)) out = w.wide("$0 + $1", {out, w.value(3)});
  w.result(out);
  w.result(mean, 1);
  w.result(scale, 2);
}

// (input, normalized_shape, weight, eps) -> (out, rstd)
void rms_norm(StepWriter& w) {
  refuse_unless_floating(w);
  if (w.is_none(3)) return w.refuse();  // the type's own epsilon
  const int32_t x = w.wide("$0", {w.value(0)});
  const int32_t square = w.wide("$0 / columns", {w.reduce(Reduction::kSum, w.wide("$0 * $0", {x}))});
  const int32_t scale = w.wide("1 / sqrt($0 + $1)", {square, w.wide("$0", {w.value(3)})});
  int32_t out = w.wide("$0 * $1", {x, scale});
  if (!w.is_none(2)) out = w.wide("$0 * $1", {out, w.value(2)});
  w.result(out);
  w.result(scale, 1);
}

const std::unordered_map<std::string, FusedOp>& table() {
  static const std::unordered_map<std::string, FusedOp> table{
      {"neg", {unary_of_any<kNeg>}},
      {"abs", {unary_of_any<kAbs>}},
      {"exp", {unary<kExp>}},
      {"log", {unary<kLog>}},
      {"sqrt", {unary<kSqrt>}},
      {"rsqrt", {unary<kRsqrt>}},
      {"reciprocal", {unary<kReciprocal>}},
      {"sin", {unary<kSin>}},
      {"cos", {unary<kCos>}},
      {"tanh", {unary<kTanh>}},
      {"erf", {unary<kErf>}},
      {"sigmoid", {unary<kSigmoid>}},
      {"silu", {unary<kSilu>}},
      {"relu", {unary_of_any<kRelu>}},
      {"add.Tensor", {scaled_sum<kAdd>}},
      {"add.Scalar", {scaled_sum<kAdd>}},
      {"sub.Tensor", {scaled_sum<kSub>}},
      {"sub.Scalar", {scaled_sum<kSub>}},
      {"rsub.Tensor", {scaled_sum<kRsub>}},
      {"rsub.Scalar", {scaled_sum<kRsub>}},
      {"mul.Tensor", {binary<kMul>}},
      {"mul.Scalar", {binary<kMul>}},
      {"div.Tensor", {binary_of_floats<kDiv>}},
      {"div.Scalar", {binary_of_floats<kDiv>}},
      {"pow.Tensor_Scalar", {pow_of_number}},
      {"pow.Tensor_Tensor", {binary_of_floats<kPow>}},
      {"maximum", {binary<kMaximum>}},
      {"minimum", {binary<kMinimum>}},
      {"gt.Tensor", {comparison<kGt>}},
      {"gt.Scalar", {comparison<kGt>}},
      {"ge.Tensor", {comparison<kGe>}},
      {"ge.Scalar", {comparison<kGe>}},
      {"lt.Tensor", {comparison<kLt>}},
      {"lt.Scalar", {comparison<kLt>}},
      {"le.Tensor", {comparison<kLe>}},
      {"le.Scalar", {comparison<kLe>}},
      {"eq.Tensor", {comparison<kEq>}},
      {"eq.Scalar", {comparison<kEq>}},
      {"ne.Tensor", {comparison<kNe>}},
      {"ne.Scalar", {comparison<kNe>}},
      {"tanh_backward", {binary_of_floats<kTanhBackward>}},
      {"sigmoid_backward", {binary_of_floats<kSigmoidBackward>}},
      {"silu_backward", {binary_of_floats<kSiluBackward>}},
      {"threshold_backward", {threshold_backward}},
      {"gelu", {gelu}},
      {"gelu_backward", {gelu_backward}},
      {"where.self", {where}},
      {"masked_fill.Scalar", {masked_fill}},
      {"logical_not", {logical_not}},
      {"bitwise_not", {flip}},
      {"logical_and", {both}},
      {"logical_or", {either}},
      {"bitwise_and.Tensor", {both}},
      {"bitwise_or.Tensor", {either}},
      {"clamp", {clamp}},
      {"clone", {same}},
      {"_to_copy", {to_copy}},
      {"sum.dim_IntList", {sum, Columns::kDims}},
      {"mean.dim", {mean, Columns::kDims}},
      {"amax", {amax, Columns::kDims}},
      {"amin", {amin, Columns::kDims}},
      {"_softmax", {softmax, Columns::kDim}},
      {"_log_softmax", {log_softmax, Columns::kDim}},
      {"_softmax_backward_data", {softmax_backward, Columns::kDim, 2}},
      {"_log_softmax_backward_data", {log_softmax_backward, Columns::kDim, 2}},
      {"native_layer_norm", {layer_norm, Columns::kSizes}},
      {"_fused_rms_norm", {rms_norm, Columns::kSizes}},
  };
  return table;
}

}  // namespace

const FusedOp* fused_op(ir::Symbol op) {
  static const std::string aten = "aten.";
  const std::string& name = op.str();
  if (name.compare(0, aten.size(), aten) != 0) return nullptr;
  const auto found = table().find(name.substr(aten.size()));
  return found == table().end() ? nullptr : &found->second;
}

}  // namespace moai::compile
