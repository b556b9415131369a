// Recurrent cells. Torch calls a fused kernel for them on any device that is not the CPU; ours are the
// CPU's formulas over recorded ops, which autograd differentiates.

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <tuple>

namespace moai::record {

namespace {

using Optional = std::optional<at::Tensor>;

at::Tensor with_bias(const at::Tensor& gates, const Optional& bias) {
  return bias.has_value() && bias->defined() ? gates + *bias : gates;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> lstm_cell(const at::Tensor& input_gates,
                                                         const at::Tensor& hidden_gates, const at::Tensor& cx,
                                                         const Optional& input_bias,
                                                         const Optional& hidden_bias) {
  const at::Tensor gates = with_bias(hidden_gates, hidden_bias) + with_bias(input_gates, input_bias);
  const auto parts = gates.chunk(4, 1);
  const at::Tensor cy = parts[1].sigmoid() * cx + parts[0].sigmoid() * parts[2].tanh();
  const at::Tensor hy = parts[3].sigmoid() * cy.tanh();
  return {hy, cy, gates};  // the workspace is the fused backward's, which does not run
}

std::tuple<at::Tensor, at::Tensor> gru_cell(const at::Tensor& input_gates, const at::Tensor& hidden_gates,
                                            const at::Tensor& hx, const Optional& input_bias,
                                            const Optional& hidden_bias) {
  const at::Tensor from_input = with_bias(input_gates, input_bias);
  const auto input = from_input.chunk(3, 1);
  const auto hidden = with_bias(hidden_gates, hidden_bias).chunk(3, 1);
  const at::Tensor reset = (hidden[0] + input[0]).sigmoid();
  const at::Tensor update = (hidden[1] + input[1]).sigmoid();
  const at::Tensor fresh = (input[2] + hidden[2] * reset).tanh();
  return {(hx - fresh) * update + fresh, from_input};
}

}  // namespace

// On both keys, so that autograd sees the ops that they are made of.
TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("_thnn_fused_lstm_cell", lstm_cell);
  m.impl("_thnn_fused_gru_cell", gru_cell);
}
TORCH_LIBRARY_IMPL(aten, AutogradPrivateUse1, m) {
  m.impl("_thnn_fused_lstm_cell", lstm_cell);
  m.impl("_thnn_fused_gru_cell", gru_cell);
}

}  // namespace moai::record
