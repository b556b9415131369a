#include "kernels/aten/sampler.h"

#include <ATen/core/Tensor.h>

#include <utility>
#include <vector>

namespace moai::aten {

Sampler by_way_of_host(SamplerFn sampler, c10::Device device) {
  return [sampler, device](torch::jit::Stack& stack, const Draw& draw) {
    std::vector<std::pair<at::Tensor, at::Tensor>> twins;  // on the device, on the host
    for (auto& value : stack) {
      if (!value.isTensor() || !value.toTensor().defined() || value.toTensor().device() != device) continue;
      const at::Tensor original = value.toTensor();
      // A copy also where the device is the host: what is written goes the same way everywhere.
      const at::Tensor twin = original.to(original.options().device(at::kCPU), /*non_blocking=*/false,
                                          /*copy=*/true);
      twins.emplace_back(original, twin);
      value = twin;
    }
    sampler(stack, draw);
    // Every operand may have been written; samplers have few, and most of those are.
    for (const auto& [original, twin] : twins) original.copy_(twin);
    for (auto& value : stack) {
      if (!value.isTensor() || !value.toTensor().defined()) continue;
      const at::Tensor result = value.toTensor();
      at::Tensor back;
      for (const auto& [original, twin] : twins) {
        if (result.is_same(twin)) back = original;
      }
      value = back.defined() ? back : result.to(device);
    }
  };
}

}  // namespace moai::aten
