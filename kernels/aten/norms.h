#pragma once

#include <string>

#include "kernels/aten/machine.h"

namespace moai::aten {

// Norms are recorded as the CPU computes them: what backward needs is kept in the input's dtype, and weights
// may be wider than the input. CUDA's kernels keep f32 of what is narrower, and take no wider weights. For
// devices with such kernels: one that converts before and after. Null for other ops.
Kernel norm_kernel(const std::string& op);

}  // namespace moai::aten
