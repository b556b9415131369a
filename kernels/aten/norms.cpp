#include "kernels/aten/norms.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/native_batch_norm_backward.h>
#include <ATen/ops/native_layer_norm.h>
#include <ATen/ops/native_layer_norm_backward.h>

#include <array>
#include <optional>
#include <utility>

#include "kernels/aten/stand_in.h"

namespace moai::aten {

namespace {

using torch::jit::Stack;

at::Tensor as(const at::Tensor& tensor, at::ScalarType dtype) {
  return tensor.defined() && tensor.scalar_type() != dtype ? tensor.to(dtype) : tensor;
}

// Statistics as the kernels of the device want them: CUDA's compute in f32 whatever is narrower.
at::Tensor wide(const at::Tensor& kept) {
  return kept.is_cuda() && is_half(kept.scalar_type()) ? kept.to(at::kFloat) : kept;
}

std::array<bool, 3> mask_of(const at::IValue& value) {
  const auto list = value.toBoolList();
  return {list[0], list[1], list[2]};
}

void leave(Stack& stack, at::Tensor first, at::Tensor second, at::Tensor third) {
  stack.clear();
  stack.emplace_back(std::move(first));
  stack.emplace_back(std::move(second));
  stack.emplace_back(std::move(third));
}

// (input, normalized_shape, weight, bias, eps)
void layer_norm(Stack& stack) {
  const at::Tensor x = stack[0].toTensor();
  const auto weight = tensor_or_none(stack[2]), bias = tensor_or_none(stack[3]);
  const auto given = weight ? weight->scalar_type() : bias ? bias->scalar_type() : x.scalar_type();
  auto [y, mean, rstd] =
      at::native_layer_norm(as(x, given), stack[1].toIntVector(), weight, bias, stack[4].toDouble());
  const auto kept = given == x.scalar_type() ? given : at::kFloat;
  leave(stack, as(y, x.scalar_type()), as(mean, kept), as(rstd, kept));
}

// (grad_out, input, normalized_shape, mean, rstd, weight, bias, output_mask)
void layer_norm_backward(Stack& stack) {
  const at::Tensor grad = stack[0].toTensor(), x = stack[1].toTensor();
  const auto weight = tensor_or_none(stack[5]), bias = tensor_or_none(stack[6]);
  const auto given = weight ? weight->scalar_type() : bias ? bias->scalar_type() : x.scalar_type();
  auto [of_x, of_weight, of_bias] = at::native_layer_norm_backward(
      as(grad, given), as(x, given), stack[2].toIntVector(), wide(stack[3].toTensor()),
      wide(stack[4].toTensor()), weight, bias, mask_of(stack[7]));
  leave(stack, as(of_x, x.scalar_type()), of_weight, of_bias);
}

// (grad_out, input, weight, running_mean, running_var, save_mean, save_invstd, train, eps, output_mask)
void batch_norm_backward(Stack& stack) {
  const auto saved = [&](size_t i) {
    auto kept = tensor_or_none(stack[i]);
    if (kept) kept = wide(*kept);
    return kept;
  };
  auto [of_x, of_weight, of_bias] =
      at::native_batch_norm_backward(stack[0].toTensor(), stack[1].toTensor(), tensor_or_none(stack[2]),
                                     tensor_or_none(stack[3]), tensor_or_none(stack[4]), saved(5), saved(6),
                                     stack[7].toBool(), stack[8].toDouble(), mask_of(stack[9]));
  leave(stack, of_x, of_weight, of_bias);
}

}  // namespace

Kernel norm_kernel(const std::string& op) {
  if (op == "aten.native_layer_norm") return &layer_norm;
  if (op == "aten.native_layer_norm_backward") return &layer_norm_backward;
  if (op == "aten.native_batch_norm_backward") return &batch_norm_backward;
  return nullptr;
}

}  // namespace moai::aten
