// Derivatives of products, which torch computes by looking for zeros on the host. The formulas are torch's
// (prod_backward, prod_safe_zeros_backward and cumprod_backward), with a choice by element for each read.

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/any.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/clamp_min.h>
#include <ATen/ops/cumprod.h>
#include <ATen/ops/cumprod_backward_native.h>
#include <ATen/ops/cumsum.h>
#include <ATen/ops/div.h>
#include <ATen/ops/eq.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/logical_and.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/prod_ops.h>
#include <ATen/ops/sub.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/where.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "record/autograd.h"

namespace moai::record {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// What stands before each element along `dim`, multiplied up.
at::Tensor product_before(const at::Tensor& self, int64_t dim) {
  const int64_t n = self.size(dim);
  return at::cumprod(at::cat({at::ones_like(self.narrow(dim, 0, 1)), self.narrow(dim, 0, n - 1)}, dim), dim);
}

// The derivative of the product along `dim`; `grad` and `result` have that dim, of size one.
at::Tensor product_backward(const at::Tensor& grad, const at::Tensor& self, const at::Tensor& result,
                            int64_t dim) {
  if (self.size(dim) <= 1) return at::mul(grad, at::ones_like(self));
  const at::Tensor zeros = at::eq(self, 0);
  const at::Tensor has_zeros = zeros.any(dim, /*keepdim=*/true);
  const at::Tensor by_division = at::div(result, at::where(zeros, at::ones_like(self), self));
  const at::Tensor of_others =
      at::mul(product_before(self, dim), product_before(self.flip(dim), dim).flip(dim));
  return at::mul(grad, at::where(has_zeros, of_others, by_division).conj());
}

struct Product : torch::autograd::Function<Product> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& self, std::optional<int64_t> dim,
                            bool keep_dim, std::optional<at::ScalarType> dtype) {
    const at::AutoDispatchBelowADInplaceOrView below;
    at::Tensor result = dim.has_value() ? at::_ops::prod_dim_int::call(self, *dim, keep_dim, dtype)
                                        : at::_ops::prod::call(self, dtype);
    context->save_for_backward({self, result});
    context->saved_data["dim"] = dim;
    context->saved_data["keep_dim"] = keep_dim;
    return result;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const auto saved = context->get_saved_variables();
    at::Tensor grad = grads[0];
    const at::Tensor self = saved[0].to(grad.scalar_type());
    at::Tensor result = saved[1];
    const auto given = context->saved_data["dim"].toOptional<int64_t>();
    at::Tensor of_self;
    if (self.dim() == 0) {
      of_self = grad.clone();
    } else if (!given.has_value()) {
      of_self = product_backward(grad.reshape({1}), self.reshape({-1}), result.reshape({1}), 0)
                    .reshape(self.sizes());
    } else {
      const int64_t dim = *given < 0 ? *given + self.dim() : *given;
      if (!context->saved_data["keep_dim"].toBool()) {
        grad = grad.unsqueeze(dim);
        result = result.unsqueeze(dim);
      }
      of_self = product_backward(grad, self, result, dim);
    }
    return {of_self, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

// An integer has no derivative.
bool is_for_torch(const at::Tensor& self, std::optional<at::ScalarType> dtype) {
  const auto result = dtype.value_or(self.scalar_type());
  return is_torchs_own(self) || !(at::isFloatingType(result) || at::isComplexType(result));
}

at::Tensor prod(c10::DispatchKeySet keys, const at::Tensor& self, std::optional<at::ScalarType> dtype) {
  if (is_for_torch(self, dtype)) return call_torchs_own<at::_ops::prod>(keys, self, dtype);
  return Product::apply(self, std::nullopt, false, dtype);
}

at::Tensor prod_dim(c10::DispatchKeySet keys, const at::Tensor& self, int64_t dim, bool keep_dim,
                    std::optional<at::ScalarType> dtype) {
  if (is_for_torch(self, dtype))
    return call_torchs_own<at::_ops::prod_dim_int>(keys, self, dim, keep_dim, dtype);
  return Product::apply(self, dim, keep_dim, dtype);
}

// Before a row's first zero the sums are divided; at the zero itself they are built anew, up to the next one,
// from what stood before; behind it the derivative is zero. For second derivatives torch's formula serves,
// which reads.
at::Tensor cumprod_backward(const at::Tensor& grad, const at::Tensor& input, int64_t dim,
                            const at::Tensor& output) {
  if (at::GradMode::is_enabled() || input.numel() <= 1 || input.size(dim) == 1)
    return at::native::cumprod_backward(grad, input, dim, output);
  const at::Tensor self = input.to(grad.scalar_type()).conj();
  const at::Tensor ones = at::ones_like(self);
  const at::Tensor zeros = at::eq(self, 0);
  const at::Tensor zeros_so_far = at::cumsum(zeros, dim);
  const at::Tensor none = at::eq(zeros_so_far, 0);
  const at::Tensor one = at::eq(zeros_so_far, 1);
  const at::Tensor is_first = at::logical_and(zeros, one);

  const at::Tensor weighted = at::where(none, at::mul(output.conj(), grad), 0);
  const at::Tensor before =
      at::div(at::cumsum(weighted.flip(dim), dim).flip(dim), at::where(zeros, ones, self));

  const at::Tensor between = at::logical_and(one, zeros.logical_not());
  const at::Tensor behind = at::mul(at::cumprod(at::where(between, self, 1), dim), at::where(one, grad, 0));
  const at::Tensor first = at::argmax(is_first.to(at::kByte), dim, /*keepdim=*/true);
  const at::Tensor in_front = at::where(at::eq(first, 0), at::ones_like(first, self.options()),
                                        at::gather(output.conj(), dim, at::clamp_min(at::sub(first, 1), 0)));
  const at::Tensor at_first = at::mul(at::sum(behind, dim, /*keepdim=*/true), in_front);
  return at::where(none, before, at::where(is_first, at_first, 0));
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, AutogradPrivateUse1, m) {
  m.impl("prod", TORCH_FN(prod));
  m.impl("prod.dim_int", TORCH_FN(prod_dim));
  m.impl("cumprod_backward", TORCH_FN(cumprod_backward));
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) { m.impl("cumprod_backward", TORCH_FN(cumprod_backward)); }

}  // namespace moai::record
