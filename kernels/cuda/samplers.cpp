#include "kernels/cuda/samplers.h"

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include <optional>
#include <unordered_map>

#include "kernels/aten/dropout.h"
#include "kernels/cuda/draw.h"

namespace moai::cuda {

namespace {

using aten::Draw;
using torch::jit::Stack;

std::optional<Element> element_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat: return Element::kF32;
    case at::kDouble: return Element::kF64;
    case at::kHalf: return Element::kF16;
    case at::kBFloat16: return Element::kBF16;
    case at::kBool: return Element::kBool;
    default: return std::nullopt;
  }
}

bool draws_here(const at::Tensor& tensor, const Draw& draw) {
  return tensor.is_contiguous() && element_of(tensor.scalar_type()) && draw.part.is_one_run();
}

Numbers numbers_of(const at::Tensor& tensor, const Draw& draw) {
  return {draw.seed, draw.counter, draw.part.is_everything() ? 0 : draw.part.start(), tensor.numel()};
}

// launch(memory, element, numbers, stream)
template <typename Launch>
void fill(const at::Tensor& self, const Draw& draw, const Launch& launch) {
  launch(self.mutable_data_ptr(), *element_of(self.scalar_type()), numbers_of(self, draw),
         c10::cuda::getCurrentCUDAStream(self.device().index()).stream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

void finish(Stack& stack, at::Tensor result) {
  stack.clear();
  stack.emplace_back(std::move(result));
}

void uniform_(Stack& stack, const Draw& draw) {
  const at::Tensor self = stack[0].toTensor();
  const double from = stack[1].toScalar().toDouble();
  const double to = stack[2].toScalar().toDouble();
  TORCH_CHECK(from <= to, "uniform_ expects to return a [from, to) range, but found from=", from,
              " > to=", to);
  fill(self, draw, [&](void* out, Element element, const Numbers& numbers, cudaStream_t stream) {
    draw_uniform(out, element, numbers, from, to, stream);
  });
  finish(stack, self);
}

void normal_(Stack& stack, const Draw& draw) {
  const at::Tensor self = stack[0].toTensor();
  const double mean = stack[1].toScalar().toDouble();
  const double deviation = stack[2].toScalar().toDouble();
  TORCH_CHECK(deviation >= 0.0, "normal expects std >= 0.0, but found std ", deviation);
  fill(self, draw, [&](void* out, Element element, const Numbers& numbers, cudaStream_t stream) {
    draw_normal(out, element, numbers, mean, deviation, stream);
  });
  finish(stack, self);
}

void fill_bernoulli(const at::Tensor& self, const Draw& draw, double probability) {
  TORCH_CHECK(0 <= probability && probability <= 1,
              "bernoulli_ expects p to be in [0, 1], but got p=", probability);
  fill(self, draw, [&](void* out, Element element, const Numbers& numbers, cudaStream_t stream) {
    draw_bernoulli(out, element, numbers, probability, stream);
  });
}

void bernoulli_(Stack& stack, const Draw& draw) {
  const at::Tensor self = stack[0].toTensor();
  fill_bernoulli(self, draw, stack[1].toScalar().toDouble());
  finish(stack, self);
}

void native_dropout(Stack& stack, const Draw& draw) {
  aten::dropout(stack, [&](const at::Tensor& kept, double p) {
    fill_bernoulli(kept, draw, p);  // a number below p drops
    kept.logical_not_();
  });
}

}  // namespace

aten::Sampler find_sampler(const std::string& op, const aten::Sampler& on_host) {
  static const std::unordered_map<std::string, aten::SamplerFn> table{
      {"aten.uniform_", uniform_},
      {"aten.normal_", normal_},
      {"aten.bernoulli_.float", bernoulli_},
      {"aten.native_dropout", native_dropout},
  };
  const auto found = table.find(op);
  if (found == table.end()) return nullptr;
  return [here = found->second, on_host](Stack& stack, const Draw& draw) {
    draws_here(stack[0].toTensor(), draw) ? here(stack, draw) : on_host(stack, draw);
  };
}

}  // namespace moai::cuda
