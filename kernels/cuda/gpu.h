#pragma once

#include <c10/cuda/CUDAStream.h>

#include <memory>
#include <mutex>

#include "runtime/memory_source.h"

namespace moai::cuda {

// The streams of one GPU: one computes, one copies between host and device.
struct Gpu {
  const c10::DeviceIndex index;
  const c10::cuda::CUDAStream compute;
  const c10::cuda::CUDAStream copies;

  // Makes the GPU's context, which takes a moment.
  explicit Gpu(int index);
};

// The GPU with this number among the visible ones; made at the first call. Thread-safe.
Gpu& gpu(int index);

// A GPU's memory, from torch's allocator, so that kernels' scratch and ours come from one stock. Copies go
// through pinned memory on the stream for copies.
std::shared_ptr<runtime::MemorySource> make_memory(int gpu);

}  // namespace moai::cuda
