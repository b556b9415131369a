#include "ops/traits.h"

#include <iterator>
#include <string>
#include <unordered_map>

#include "ops/expert_rows.h"

namespace moai::ops {

namespace {

constexpr const char* kPointwise[] = {
    "add.Tensor",
    "add.Scalar",
    "sub.Tensor",
    "sub.Scalar",
    "rsub.Tensor",
    "rsub.Scalar",
    "mul.Tensor",
    "mul.Scalar",
    "div.Tensor",
    "div.Scalar",
    "div.Tensor_mode",
    "neg",
    "abs",
    "exp",
    "log",
    "log1p",
    "expm1",
    "sqrt",
    "rsqrt",
    "sin",
    "cos",
    "tanh",
    "sigmoid",
    "silu",
    "silu_backward",
    "gelu",
    "gelu_backward",
    "relu",
    "threshold_backward",
    "tanh_backward",
    "sigmoid_backward",
    "pow.Tensor_Scalar",
    "pow.Tensor_Tensor",
    "pow.Scalar",
    "reciprocal",
    "addcmul",
    "addcdiv",
    "lerp.Scalar",
    "lerp.Tensor",
    "where.self",
    "masked_fill.Scalar",
    "masked_fill.Tensor",
    "clamp",
    "clamp.Tensor",
    "clamp_min",
    "clamp_max",
    "maximum",
    "minimum",
    "leaky_relu",
    "elu",
    "softplus",
    "hardtanh",
    "hardswish",
    "hardsigmoid",
    "mish",
    "logit",
    "sgn",
    "sign",
    "erf",
    "bitwise_not",
    "bitwise_and.Tensor",
    "bitwise_or.Tensor",
    "bitwise_xor.Tensor",
    "logical_not",
    "logical_and",
    "logical_or",
    "logical_xor",
    "square",
};

constexpr const char* kConditional[] = {"where.self", "masked_fill.Scalar", "masked_fill.Tensor"};

constexpr const char* kCanRaise[] = {
    "embedding",
    "index.Tensor",
    "index_put",
    "index_put_",
    "_index_put_impl_",
    "_unsafe_index.Tensor",
    "_unsafe_index_put",
    "index_select",
    "index_add",
    "index_add_",
    "index_copy",
    "index_copy_",
    "index_fill.int_Scalar",
    "index_fill_.int_Scalar",
    "gather",
    "scatter.src",
    "scatter.value",
    "scatter_.src",
    "scatter_.value",
    "scatter_add",
    "scatter_add_",
    "scatter_reduce.two",
    "scatter_reduce_.two",
    "take",
    "put",
    "put_",
    "nll_loss_forward",
    "nll_loss2d_forward",
    "multi_margin_loss",
    "multilabel_margin_loss_forward",
    "_embedding_bag",
    "_embedding_bag_forward_only",
    "binary_cross_entropy",
    "bernoulli.p",
    "multinomial",
    "linalg_cholesky_ex",
    "linalg_inv_ex",
    "_linalg_solve_ex",
    "_linalg_eigh",
    "_linalg_svd",
    "linalg_eig",
    "linalg_lu_factor_ex",
    "cholesky",
    "cholesky_inverse",
    "_linalg_check_errors",
    "ctc_loss",
    "_ctc_loss",
    "one_hot",
    "bincount",
    "_assert_async",
    "_assert_async.msg",
    "_assert_scalar",
};

std::unordered_map<ir::Symbol, Traits> build() {
  std::unordered_map<ir::Symbol, Traits> table;
  for (const char* name : kPointwise) table[ir::Symbol::intern(std::string("aten.") + name)].pointwise = true;
  for (const char* name : kConditional)
    table[ir::Symbol::intern(std::string("aten.") + name)].conditional = true;
  for (const char* name : kCanRaise) table[ir::Symbol::intern(std::string("aten.") + name)].can_raise = true;
  // What a device's part of a step has besides (compile/local/collective.h).
  table[ir::Symbol::intern("moai.all_reduce")].pointwise = true;
  table[ir::Symbol::intern("moai.barrier")].can_raise = true;
  table[ir::Symbol::intern("moai.check_slots")].can_raise = true;
  table[expert_rows().assign].can_raise = true;  // it checks
  return table;
}

}  // namespace

const Traits& traits(ir::Symbol op) {
  static const auto* table = new std::unordered_map<ir::Symbol, Traits>(build());
  static const Traits none;
  const auto it = table->find(op);
  return it == table->end() ? none : it->second;
}

std::vector<std::string> pointwise_ops() { return {std::begin(kPointwise), std::end(kPointwise)}; }

}  // namespace moai::ops
