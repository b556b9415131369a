#pragma once

#include <ATen/core/stack.h>

#include <cstdint>
#include <string>

namespace moai::cpu {

// A sampler takes the arguments of its ATen operator from the stack, draws with (seed, counter)
// and leaves the operator's returns. See Note [Random numbers].
using SamplerFn = void (*)(torch::jit::Stack& stack, uint64_t seed, uint64_t counter);

// By `aten.uniform_`, …; null when there is none.
SamplerFn find_sampler(const std::string& op);

}  // namespace moai::cpu
