#pragma once

#include <memory>
#include <string>

#include "kernels/aten/machine.h"

namespace moai::cuda {

// Machine code for `architecture` (`sm_90`) of a CUDA text without includes. Needs no GPU.
// Throws Error(Phase::kCompile) with what the compiler said.
std::string compile(const std::string& text, const std::string& architecture);

// A fused kernel for the calling thread's GPU, on its current stream; made once in a process, and its machine
// code is kept in `folder` (empty: nowhere), by text, architecture and compiler. Throws as `compile` does.
std::shared_ptr<aten::CompiledKernel> compiled_kernel(const std::string& text, const std::string& folder);

}  // namespace moai::cuda
