// Derivatives that torch computes by reading on the host, unless the device is CUDA.

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <ATen/ops/div.h>
#include <ATen/ops/eq.h>
#include <ATen/ops/isnan.h>
#include <ATen/ops/logical_and.h>
#include <ATen/ops/logical_or.h>
#include <ATen/ops/max_ops.h>
#include <ATen/ops/median_ops.h>
#include <ATen/ops/min_ops.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/nanmedian_ops.h>
#include <ATen/ops/sum.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

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

bool in_transform() {
  return c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode) ||
         c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerBackMode);
}

template <typename Op>
at::Tensor pick(c10::DispatchKeySet keys, const at::Tensor& self) {
  if (self._fw_grad(/*level=*/0).defined() || in_transform()) {
    // Forward mode and functorch's transforms are torch's own.
    const auto op = c10::Dispatcher::singleton().findSchemaOrThrow(Op::name, Op::overload_name);
    torch::jit::Stack stack{self};
    op.getComputedKernelForDispatchKey(c10::DispatchKey::AutogradCPU).callBoxed(op, keys, &stack);
    return stack[0].toTensor();
  }
  return PickedElement::apply(self, static_cast<Pick>(&Op::call));
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, AutogradPrivateUse1, m) {
  m.impl("max", TORCH_FN(pick<at::_ops::max>));
  m.impl("min", TORCH_FN(pick<at::_ops::min>));
  m.impl("median", TORCH_FN(pick<at::_ops::median>));
  m.impl("nanmedian", TORCH_FN(pick<at::_ops::nanmedian>));
}

}  // namespace moai::record
