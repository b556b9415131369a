#pragma once

#include "kernels/aten/cuda_library.h"

namespace moai::cuda {

// Wraps torch's CUDA allocator, as Note [Where a result goes] says; other threads see no difference. Called
// once CUDA is initialised; the first call counts.
void install_placing_allocator(const aten::CudaHost& host);

}  // namespace moai::cuda
