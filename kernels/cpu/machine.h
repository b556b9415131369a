#pragma once

#include <memory>

#include "kernels/aten/machine.h"

namespace moai::cpu {

// ATen's CPU kernels, with so many threads of the machine.
std::unique_ptr<aten::Machine> make_machine(int threads);

}  // namespace moai::cpu
