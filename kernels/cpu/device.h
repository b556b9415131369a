#pragma once

#include <cstdint>
#include <memory>

#include "runtime/backend.h"

namespace moai::cpu {

// Most bytes that one op asked for beyond its results.
int64_t scratch_peak_bytes();

// Runs programs by calling ATen's CPU kernels, in the device's memory and on its share of the threads.
// `transport`: what its programs' collectives go through; null where there is one device.
std::unique_ptr<runtime::Backend> make_backend(runtime::Device& device, runtime::Transport* transport);

}  // namespace moai::cpu
