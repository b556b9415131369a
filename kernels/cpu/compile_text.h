#pragma once

#include <memory>
#include <string>

#include "kernels/aten/machine.h"

namespace moai::cpu {

// A fused kernel's C++ text (compile/fuse/emit.h) compiled by the machine's `c++`, kept on disk. For tests of
// what is compiled for GPUs from the same steps. Throws Error(Phase::kCompile) with what the compiler said.
std::shared_ptr<aten::CompiledKernel> compile_text(const std::string& text);

}  // namespace moai::cpu
