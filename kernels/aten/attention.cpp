#include "kernels/aten/attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_scaled_dot_product_efficient_attention.h>
#include <ATen/ops/_scaled_dot_product_efficient_attention_backward.h>
#include <ATen/ops/_scaled_dot_product_flash_attention.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_backward.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "kernels/aten/stand_in.h"

namespace moai::aten {

namespace {

using torch::jit::Stack;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// [batch, heads, positions, width]; keys and values may have fewer heads, which query heads share in turn.
struct Inputs {
  at::Tensor query, key, value;
  std::optional<at::Tensor> mask;  // added to scores; of bool: which count
  bool causal;                     // a query sees the keys up to its own position
  std::optional<double> scale;     // none: 1 / sqrt(width)

  double factor() const { return scale.value_or(1.0 / std::sqrt(static_cast<double>(query.size(-1)))); }
  int64_t sharers() const { return key.size(1) == 0 ? 1 : query.size(1) / key.size(1); }
};

at::Tensor of_query_heads(const at::Tensor& tensor, int64_t sharers) {
  return sharers == 1 ? tensor : tensor.repeat_interleave(sharers, 1);
}

at::Tensor of_key_heads(const at::Tensor& tensor, int64_t sharers) {
  if (sharers == 1) return tensor;
  return tensor.unflatten(1, {tensor.size(1) / sharers, sharers}).sum(2);
}

at::Tensor unit_stride(const at::Tensor& tensor) {
  return tensor.stride(-1) == 1 ? tensor : tensor.contiguous();
}

// What both fast kernels ask for; widths that are no multiple of eight would need padded copies.
bool is_fast(const Inputs& in) {
  const int64_t width = in.query.size(-1);
  return in.query.is_cuda() && in.query.numel() > 0 && in.key.numel() > 0 && width % 8 == 0 &&
         in.value.size(-1) == width && in.query.scalar_type() != at::kDouble;
}

bool is_flash(const Inputs& in) {
  constexpr int64_t kWidest = 256;
  // With other lengths its causal mask is aligned to the last key.
  return is_fast(in) && is_half(in.query.scalar_type()) && !in.mask && in.query.size(-1) <= kWidest &&
         (!in.causal || in.query.size(2) == in.key.size(2));
}

// The mask as the memory-efficient kernel reads it: rows begin at multiples of 16 bytes.
std::optional<at::Tensor> bias_of(const Inputs& in) {
  constexpr int64_t kAligned = 16;
  if (!in.mask) return std::nullopt;
  at::Tensor bias = *in.mask;
  if (bias.scalar_type() == at::kBool)
    bias = at::zeros(bias.sizes(), in.query.options()).masked_fill(bias.logical_not(), -kInfinity);
  const int64_t keys = in.key.size(2);
  if (bias.size(-1) != keys) {  // one for all of them
    auto sizes = bias.sizes().vec();
    sizes.back() = keys;
    bias = bias.expand(sizes);
  }
  const int64_t rest = (kAligned - keys % kAligned) % kAligned;
  bias = at::constant_pad_nd(bias.to(in.query.scalar_type()), {0, rest}).slice(-1, 0, keys);
  return bias.expand({in.query.size(0), in.query.size(1), in.query.size(2), keys});
}

// Its logarithms of sums are those of a multiple of 32 queries.
at::Tensor padded_logsumexp(const at::Tensor& logsumexp) {
  constexpr int64_t kRows = 32;
  const int64_t rest = (kRows - logsumexp.size(-1) % kRows) % kRows;
  return at::constant_pad_nd(logsumexp, {0, rest}, kInfinity).contiguous();
}

at::Tensor wide(const at::Tensor& tensor) {
  return is_half(tensor.scalar_type()) ? tensor.to(at::kFloat) : tensor;
}

at::Tensor scores_of(const Inputs& in) {
  at::Tensor scores =
      at::matmul(wide(in.query) * in.factor(), of_query_heads(wide(in.key), in.sharers()).transpose(-2, -1));
  if (in.mask && in.mask->scalar_type() == at::kBool) {
    scores = scores.masked_fill(in.mask->logical_not(), -kInfinity);
  } else if (in.mask) {
    scores = scores + wide(*in.mask);
  }
  if (!in.causal) return scores;
  const auto places = [&](int64_t dim) { return at::arange(scores.size(dim), scores.options()); };
  return scores.masked_fill(places(-1).unsqueeze(0).gt(places(-2).unsqueeze(1)), -kInfinity);
}

// Of a row that sees no key: nothing.
at::Tensor weights_of(const at::Tensor& scores, const at::Tensor& logsumexp) {
  const at::Tensor of_row = logsumexp.unsqueeze(-1);
  return (scores - of_row).exp().masked_fill(of_row.eq(-kInfinity), 0);
}

std::pair<at::Tensor, at::Tensor> forward(const Inputs& in) {
  if (is_flash(in)) {
    const auto results = at::_scaled_dot_product_flash_attention(
        unit_stride(in.query), unit_stride(in.key), unit_stride(in.value), 0.0, in.causal, false, in.scale);
    return {std::get<0>(results), std::get<1>(results)};
  }
  if (is_fast(in)) {
    const auto results = at::_scaled_dot_product_efficient_attention(
        unit_stride(in.query), unit_stride(of_query_heads(in.key, in.sharers())),
        unit_stride(of_query_heads(in.value, in.sharers())), bias_of(in), true, 0.0, in.causal, in.scale);
    return {std::get<0>(results), std::get<1>(results).slice(-1, 0, in.query.size(2))};
  }
  const at::Tensor scores = scores_of(in);
  const at::Tensor logsumexp = at::logsumexp(scores, {-1});
  const at::Tensor out =
      at::matmul(weights_of(scores, logsumexp), of_query_heads(wide(in.value), in.sharers()));
  return {out.to(in.query.scalar_type()), logsumexp};
}

struct Gradients {
  at::Tensor query, key, value;
};

Gradients backward(const Inputs& in, const at::Tensor& grad, const at::Tensor& out,
                   const at::Tensor& logsumexp) {
  const auto bytes = at::TensorOptions(in.query.device()).dtype(at::kUInt64);
  if (is_flash(in)) {
    const auto results = at::_scaled_dot_product_flash_attention_backward(
        unit_stride(grad), unit_stride(in.query), unit_stride(in.key), unit_stride(in.value),
        unit_stride(out), logsumexp.contiguous(), at::Tensor(), at::Tensor(), in.query.size(2),
        in.key.size(2), 0.0, in.causal, at::zeros({2}, bytes), at::zeros({}, bytes), in.scale);
    return {std::get<0>(results), std::get<1>(results), std::get<2>(results)};
  }
  const int64_t sharers = in.sharers();
  if (is_fast(in)) {
    const auto no_seed = at::zeros({}, at::TensorOptions(in.query.device()).dtype(at::kLong));
    const auto bias = bias_of(in);
    const auto results = at::_scaled_dot_product_efficient_attention_backward(
        unit_stride(grad), unit_stride(in.query), unit_stride(of_query_heads(in.key, sharers)),
        unit_stride(of_query_heads(in.value, sharers)), bias.value_or(at::Tensor()), unit_stride(out),
        padded_logsumexp(logsumexp), no_seed, no_seed, 0.0, {true, true, true, false}, in.causal, in.scale);
    return {std::get<0>(results), of_key_heads(std::get<1>(results), sharers),
            of_key_heads(std::get<2>(results), sharers)};
  }
  const at::Tensor weights = weights_of(scores_of(in), logsumexp);
  const at::Tensor grad_out = wide(grad);
  const at::Tensor of_weights =
      at::matmul(grad_out, of_query_heads(wide(in.value), sharers).transpose(-2, -1));
  const at::Tensor of_rows = (grad_out * wide(out)).sum(-1, /*keepdim=*/true);
  const at::Tensor of_scores = weights * (of_weights - of_rows) * in.factor();
  const auto narrow = [&](const at::Tensor& tensor) { return tensor.to(in.query.scalar_type()); };
  return {narrow(at::matmul(of_scores, of_query_heads(wide(in.key), sharers))),
          narrow(of_key_heads(at::matmul(of_scores.transpose(-2, -1), wide(in.query)), sharers)),
          narrow(of_key_heads(at::matmul(weights.transpose(-2, -1), grad_out), sharers))};
}

std::optional<double> number(const at::IValue& value) {
  return value.isNone() ? std::nullopt : std::optional<double>(value.toDouble());
}

void check_dropout(const at::IValue& probability) {
  TORCH_CHECK(probability.toDouble() == 0.0, "attention of moai drops nothing by itself, but dropout_p is ",
              probability.toDouble());
}

// (query, key, value, dropout_p, is_causal, attn_mask, scale)
void run_forward(Stack& stack) {
  check_dropout(stack[3]);
  auto [out, logsumexp] = forward({stack[0].toTensor(), stack[1].toTensor(), stack[2].toTensor(),
                                   tensor_or_none(stack[5]), stack[4].toBool(), number(stack[6])});
  stack.clear();
  stack.emplace_back(std::move(out));
  stack.emplace_back(std::move(logsumexp));
}

// (grad_out, query, key, value, out, logsumexp, dropout_p, is_causal, attn_mask, scale)
void run_backward(Stack& stack) {
  check_dropout(stack[6]);
  const Inputs in{stack[1].toTensor(),      stack[2].toTensor(), stack[3].toTensor(),
                  tensor_or_none(stack[8]), stack[7].toBool(),   number(stack[9])};
  Gradients grads = backward(in, stack[0].toTensor(), stack[4].toTensor(), stack[5].toTensor());
  stack.clear();
  stack.emplace_back(std::move(grads.query));
  stack.emplace_back(std::move(grads.key));
  stack.emplace_back(std::move(grads.value));
}

}  // namespace

Kernel attention_kernel(const std::string& op) {
  if (op == "aten._scaled_dot_product_flash_attention_for_cpu") return &run_forward;
  if (op == "aten._scaled_dot_product_flash_attention_for_cpu_backward") return &run_backward;
  return nullptr;
}

}  // namespace moai::aten
