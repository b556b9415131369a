#pragma once

#include <ATen/core/ivalue.h>

#include <optional>
#include <string>

#include "kernels/aten/machine.h"

namespace moai::aten {

// What a device whose ATen has not the CPU's operators runs in the place of one (attention.h, norms.h). Null
// where the operator itself serves.
Kernel stand_in(const std::string& op);

// For those kernels: an argument that may be left out.
std::optional<at::Tensor> tensor_or_none(const at::IValue& value);
bool is_half(at::ScalarType dtype);

}  // namespace moai::aten
