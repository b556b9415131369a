#pragma once

#include <string>
#include <vector>

#include "kernels/aten/sampler.h"

namespace moai::aten {

// The sampler of CPU tensors by `aten.uniform_`, …; null when there is none.
SamplerFn find_sampler(const std::string& op);
// The ops that have one, sorted.
std::vector<std::string> samplers();

}  // namespace moai::aten
