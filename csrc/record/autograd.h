#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

namespace moai::record {

// Is a derivative to be left to torch: in forward mode and in functorch's transforms?
inline bool is_torchs_own(const at::Tensor& self) {
  using K = c10::DispatchKey;
  return self._fw_grad(/*level=*/0).defined() ||
         c10::impl::tls_is_dispatch_key_included(K::FuncTorchDynamicLayerFrontMode) ||
         c10::impl::tls_is_dispatch_key_included(K::FuncTorchDynamicLayerBackMode);
}

// Calls `Op` (of `at::_ops`) with torch's own derivative, which is registered for the CPU.
template <typename Op, typename... Args>
at::Tensor call_torchs_own(c10::DispatchKeySet keys, Args&&... args) {
  const auto op = c10::Dispatcher::singleton().findSchemaOrThrow(Op::name, Op::overload_name);
  torch::jit::Stack stack;
  torch::jit::push(stack, std::forward<Args>(args)...);
  op.getComputedKernelForDispatchKey(c10::DispatchKey::AutogradCPU).callBoxed(op, keys, &stack);
  return stack[0].toTensor();
}

}  // namespace moai::record
