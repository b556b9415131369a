#pragma once

#include <memory>

#include "kernels/aten/machine.h"
#include "runtime/backend.h"

namespace moai::aten {

// Runs programs by calling ATen's kernels for the machine's device, in the device's memory.
// `transport`: what its programs' collectives go through; null where there is one device.
std::unique_ptr<runtime::Backend> make_backend(std::unique_ptr<Machine> machine, runtime::Device& device,
                                               runtime::Transport* transport);

}  // namespace moai::aten
