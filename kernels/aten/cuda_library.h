#pragma once

#include <c10/core/DeviceType.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/aten/machine.h"
#include "runtime/communicator.h"
#include "runtime/memory_source.h"

namespace moai::aten {

// What the extension lends to libmoai_cuda, which cannot link against it.
struct CudaHost {
  void* (*claim_place)(c10::DeviceType device, size_t bytes) = nullptr;  // placement.h
  bool (*return_place)(void* data) = nullptr;
  Sampler (*sampler)(const std::string& op, c10::Device device) = nullptr;  // that draws on the host
  Kernel (*kernel)(const std::string& op) = nullptr;                        // made of ATen's ops
  std::string (*kernel_folder)() = nullptr;  // runtime/disk_cache.h: the library has a copy of its own, unset
};

// What is told of a GPU now. Numbers < 0 and empty names are not known.
struct GpuState {
  std::string name;
  int64_t memory_bytes = -1;
  int64_t used_bytes = -1;
  int utilisation = -1;  // per cent of the last second in which a kernel ran
};

// Why there is no GPU where that is no wonder: none is there, or all are hidden (CUDA_VISIBLE_DEVICES).
constexpr const char* kNoGpu = "no GPU is visible";

// What libmoai_cuda offers: all of CUDA that moai uses. GPUs are told by their number among the visible ones.
// All methods are callable from any thread.
class CudaLibrary {
 public:
  virtual ~CudaLibrary() = default;

  // How many GPUs are visible. 0: `why` says why there is none.
  virtual int gpu_count(std::string* why) = 0;
  virtual GpuState state(int gpu) = 0;
  virtual std::shared_ptr<runtime::MemorySource> memory(int gpu) = 0;
  virtual std::unique_ptr<Machine> machine(int gpu) = 0;
  // What these GPUs, which become devices 0, 1, … of a process, talk through; null where the library was
  // built without NCCL.
  virtual std::shared_ptr<runtime::Transport> transport(const std::vector<int>& gpus) = 0;
};

// The one function that libmoai_cuda exports. Null when it was built for another moai.
using OpenCudaLibrary = CudaLibrary* (*)(const char* version, const CudaHost* host);
constexpr const char* kOpenCudaLibrary = "moai_open_cuda_library";

// The library, loaded at the first call, where there is a CUDA driver and a torch that has CUDA. Null: there
// is none to be had, and `why` says why. Thread-safe.
CudaLibrary* cuda_library(std::string* why);

}  // namespace moai::aten
