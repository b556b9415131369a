#pragma once

#include <memory>

#include "runtime/backend.h"
#include "runtime/memory.h"

namespace moai::cpu {

// The memory of the virtual CPU device; exists from the first use to the end of the process.
runtime::MemoryPool& pool();

// Bytes that the device may hold; before the first use of the pool. Negative: no limit.
void set_memory_limit(int64_t bytes);

// Most bytes that one op asked for beyond its results.
int64_t scratch_peak_bytes();

// Runs programs by calling ATen's CPU kernels.
std::unique_ptr<runtime::Backend> make_backend();

}  // namespace moai::cpu
