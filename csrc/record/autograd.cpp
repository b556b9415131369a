// Derivatives, and one function, that torch computes by reading on the host.

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/combinations.h>
#include <ATen/ops/combinations_native.h>
#include <ATen/ops/div.h>
#include <ATen/ops/eq.h>
#include <ATen/ops/index_fill_ops.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/isnan.h>
#include <ATen/ops/logical_and.h>
#include <ATen/ops/logical_or.h>
#include <ATen/ops/masked_fill_ops.h>
#include <ATen/ops/max_ops.h>
#include <ATen/ops/median_ops.h>
#include <ATen/ops/min_ops.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/nanmedian_ops.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <vector>

#include "record/autograd.h"

namespace moai::record {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Pick = at::Tensor (*)(const at::Tensor&);

// The largest, smallest or middle element of a tensor: those that equal it share its gradient. The
// formula is torch's for CUDA (evenly_distribute_backward).
struct PickedElement : torch::autograd::Function<PickedElement> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& self, Pick pick) {
    const at::AutoDispatchBelowADInplaceOrView below;
    at::Tensor picked = pick(self);
    context->save_for_backward({self, picked});
    return picked;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& self = saved[0];
    const at::Tensor& picked = saved[1];
    const at::Tensor both_nan = at::logical_and(at::isnan(self), at::isnan(picked));
    const at::Tensor mask = at::logical_or(at::eq(self, picked), both_nan);
    return {at::mul(mask, at::div(grads[0], at::sum(mask))), at::Tensor()};
  }
};

template <typename Op>
at::Tensor pick(c10::DispatchKeySet keys, const at::Tensor& self) {
  if (is_torchs_own(self)) return call_torchs_own<Op>(keys, self);
  return PickedElement::apply(self, static_cast<Pick>(&Op::call));
}

// Is the gradient of a value that fills wanted? Torch takes it from what the mask or the indices select,
// whose size is data; a choice by element is one with a derivative for both sides.
bool is_choice(const at::Tensor& self, const at::Tensor& value) {
  return at::GradMode::is_enabled() && value.requires_grad() && value.dim() == 0 && !is_torchs_own(self) &&
         !is_torchs_own(value);
}

at::Tensor masked_fill(c10::DispatchKeySet keys, const at::Tensor& self, const at::Tensor& mask,
                       const at::Tensor& value) {
  if (!is_choice(self, value) || mask.scalar_type() != at::kBool)
    return call_torchs_own<at::_ops::masked_fill_Tensor>(keys, self, mask, value);
  return at::where(mask, value.to(self.scalar_type()), self);
}

at::Tensor& masked_fill_(c10::DispatchKeySet keys, at::Tensor& self, const at::Tensor& mask,
                         const at::Tensor& value) {
  if (!is_choice(self, value) || mask.scalar_type() != at::kBool) {
    call_torchs_own<at::_ops::masked_fill__Tensor>(keys, self, mask, value);
    return self;
  }
  return self.copy_(at::where(mask, value.to(self.scalar_type()), self));
}

// Which elements the indices along `dim` name.
at::Tensor mask_of(const at::Tensor& self, int64_t dim, const at::Tensor& index) {
  const auto n = self.dim() == 0 ? 1 : self.size(dim);
  const at::Tensor along = at::zeros({n}, self.options().dtype(at::kBool)).index_fill_(0, index, true);
  std::vector<int64_t> sizes(static_cast<size_t>(self.dim()), 1);
  if (self.dim() > 0) sizes[static_cast<size_t>(dim < 0 ? dim + self.dim() : dim)] = n;
  return along.view(sizes);
}

at::Tensor index_fill(c10::DispatchKeySet keys, const at::Tensor& self, int64_t dim, const at::Tensor& index,
                      const at::Tensor& value) {
  if (!is_choice(self, value))
    return call_torchs_own<at::_ops::index_fill_int_Tensor>(keys, self, dim, index, value);
  return at::where(mask_of(self, dim, index), value.to(self.scalar_type()), self);
}

at::Tensor& index_fill_(c10::DispatchKeySet keys, at::Tensor& self, int64_t dim, const at::Tensor& index,
                        const at::Tensor& value) {
  if (!is_choice(self, value)) {
    call_torchs_own<at::_ops::index_fill__int_Tensor>(keys, self, dim, index, value);
    return self;
  }
  return self.copy_(at::where(mask_of(self, dim, index), value.to(self.scalar_type()), self));
}

// How many there are follows from the size: which elements they are is computed on the host.
at::Tensor combinations(const at::Tensor& self, int64_t r, bool with_replacement) {
  if (self.dim() != 1 || r <= 0) return at::native::combinations(self, r, with_replacement);
  const at::Tensor which =
      at::combinations(at::arange(self.numel(), at::TensorOptions(at::kCPU).dtype(at::kLong)), r,
                       with_replacement)
          .reshape({-1});
  return at::index_select(self, 0, which.to(self.device())).view({-1, r});
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, AutogradPrivateUse1, m) {
  m.impl("max", TORCH_FN(pick<at::_ops::max>));
  m.impl("min", TORCH_FN(pick<at::_ops::min>));
  m.impl("median", TORCH_FN(pick<at::_ops::median>));
  m.impl("nanmedian", TORCH_FN(pick<at::_ops::nanmedian>));
  m.impl("masked_fill.Tensor", TORCH_FN(masked_fill));
  m.impl("masked_fill_.Tensor", TORCH_FN(masked_fill_));
  m.impl("index_fill.int_Tensor", TORCH_FN(index_fill));
  m.impl("index_fill_.int_Tensor", TORCH_FN(index_fill_));
  m.impl("combinations", TORCH_FN(combinations));
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) { m.impl("combinations", TORCH_FN(combinations)); }

}  // namespace moai::record
