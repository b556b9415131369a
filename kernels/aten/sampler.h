#pragma once

#include <ATen/core/stack.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <functional>

#include "kernels/aten/sampled_part.h"

namespace moai::aten {

// What a sampler draws from: see Note [Random numbers].
struct Draw {
  uint64_t seed = 0;
  uint64_t counter = 0;
  SampledPart part;  // of the whole result
};

// A sampler takes the arguments of its ATen operator from the stack, draws, and leaves the operator's
// returns. Those that draw a varying number of times throw where they are asked for a part.
using SamplerFn = void (*)(torch::jit::Stack& stack, const Draw& draw);
using Sampler = std::function<void(torch::jit::Stack& stack, const Draw& draw)>;

// A sampler of CPU tensors made one of tensors on `device`: operands go to the host, what was drawn comes
// back. The same numbers, at the price of the copies.
Sampler by_way_of_host(SamplerFn sampler, c10::Device device);

}  // namespace moai::aten
