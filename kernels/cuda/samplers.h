#pragma once

#include <string>

#include "kernels/aten/sampler.h"

namespace moai::cuda {

// The samplers that draw on the GPU: those of which steps are full. Null for other ops. What they cannot draw
// (complex numbers, memory with gaps, a part that does not lie side by side in its whole) `on_host` draws.
aten::Sampler find_sampler(const std::string& op, const aten::Sampler& on_host);

}  // namespace moai::cuda
