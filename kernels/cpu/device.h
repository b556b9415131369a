#pragma once

#include <memory>

#include "runtime/backend.h"
#include "runtime/memory.h"

namespace moai::cpu {

// The memory of the virtual CPU device; exists from the first use to the end of the process.
runtime::MemoryPool& pool();

// Runs programs by calling ATen's CPU kernels.
std::unique_ptr<runtime::Backend> make_backend();

}  // namespace moai::cpu
