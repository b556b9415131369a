#pragma once

#include <string>

#include "kernels/aten/machine.h"

namespace moai::aten {

// Attention is recorded as the CPU's operator and its backward (out and the logarithms of the sums of each
// row's exponentials). For devices on which ATen has no kernel of that name: a kernel that says the same by
// flash attention or the memory-efficient one where these can on the device, else by products and a softmax.
// Null for other ops.
Kernel attention_kernel(const std::string& op);

}  // namespace moai::aten
