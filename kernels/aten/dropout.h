#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/stack.h>
#include <ATen/ops/empty_like.h>

namespace moai::aten {

// `native_dropout(input, p, train)` on a stack. `fill_kept(mask, p)` draws which elements stay: those whose
// number is not below p.
template <typename Fill>
void dropout(torch::jit::Stack& stack, const Fill& fill_kept) {
  const at::Tensor input = stack[0].toTensor();
  const double p = stack[1].toScalar().toDouble();
  const bool train = stack[2].isNone() || stack[2].toBool();
  const at::Tensor mask = at::empty_like(input, input.options().dtype(at::kBool));
  at::Tensor output;
  if (!train || p == 0) {
    mask.fill_(true);
    output = input.clone();
  } else {
    fill_kept(mask, p);
    output = input.mul(mask);
    if (p < 1) output.mul_(1.0 / (1.0 - p));
  }
  stack.clear();
  stack.emplace_back(output);
  stack.emplace_back(mask);
}

}  // namespace moai::aten
