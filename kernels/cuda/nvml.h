#pragma once

#include "kernels/aten/cuda_library.h"

namespace moai::cuda {

// What NVML tells of the GPU at this PCI address (`0000:17:00.0`). Nothing where there is no NVML.
// Thread-safe; makes no CUDA context.
aten::GpuState nvml_state(const char* pci_bus_id);

}  // namespace moai::cuda
