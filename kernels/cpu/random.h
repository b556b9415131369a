#pragma once

#include <ATen/core/stack.h>

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cpu/sampled_part.h"

namespace moai::cpu {

// What a sampler draws from: see Note [Random numbers].
struct Draw {
  uint64_t seed = 0;
  uint64_t counter = 0;
  SampledPart part;  // of the whole result
};

// A sampler takes the arguments of its ATen operator from the stack, draws, and leaves the operator's
// returns. Those that draw a varying number of times throw where they are asked for a part.
using SamplerFn = void (*)(torch::jit::Stack& stack, const Draw& draw);

// By `aten.uniform_`, …; null when there is none.
SamplerFn find_sampler(const std::string& op);
// The ops that have one, sorted.
std::vector<std::string> samplers();

}  // namespace moai::cpu
