// What libmoai_cuda exports: see kernels/aten/cuda_library.h.

#include <ATen/cuda/CUDAContextLight.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>

#include <chrono>
#include <cstring>
#include <map>
#include <mutex>

#include "kernels/aten/cuda_library.h"
#include "kernels/cuda/allocator.h"
#include "kernels/cuda/event.h"
#include "kernels/cuda/gpu.h"
#ifdef MOAI_NCCL
#include "kernels/cuda/nccl.h"
#endif
#include "kernels/cuda/nvml.h"
#include "kernels/cuda/nvrtc.h"
#include "kernels/cuda/samplers.h"

namespace moai::cuda {

namespace {

// A copy on the stream for copies.
class HostCopy final : public runtime::Work {
 public:
  HostCopy(const Gpu& on, const at::Tensor& to, const at::Tensor& from) : on_(on) {
    ready_.record(on.compute);
    ready_.block(on.copies);
    const c10::cuda::CUDAStreamGuard guard(on.copies);
    to.copy_(from, /*non_blocking=*/true);
    done_.record(on.copies);
  }
  ~HostCopy() override {
    if (is_waited_for_) return;
    try {
      wait();
    } catch (const c10::Error&) {  // a context that failed copies nothing more
    }
  }
  HostCopy(const HostCopy&) = delete;
  HostCopy& operator=(const HostCopy&) = delete;

  void wait() override {
    is_waited_for_ = true;
    done_.block(on_.compute);
  }

 private:
  const Gpu& on_;
  Event ready_, done_;
  bool is_waited_for_ = false;
};

class CudaMachine final : public aten::Machine {
 public:
  CudaMachine(int index, const aten::CudaHost& host) : index_(index), host_(host) {}

  c10::Device device() const override {
    return {c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(index_)};
  }
  c10::DispatchKey dispatch_key() const override { return c10::DispatchKey::CUDA; }

  void attach() override {
    const Gpu& on = gpu(index_);
    install_placing_allocator(host_);
    c10::cuda::set_device(on.index);
    c10::cuda::setCurrentCUDAStream(on.compute);
    // cuBLAS takes its workspace with the first handle and keeps it: not while an op's result has a place.
    at::cuda::getCurrentCUDABlasHandle();
  }

  aten::Kernel kernel(const std::string& op) const override { return host_.kernel(op); }

  aten::Sampler sampler(const std::string& op) const override {
    const aten::Sampler on_host = host_.sampler(op, device());
    const aten::Sampler here = find_sampler(op, on_host);
    return here ? here : on_host;
  }

  std::optional<compile::Target> fuses() const override { return compile::Target::kCuda; }
  std::shared_ptr<aten::CompiledKernel> compile(const std::string& text) override {
    return compiled_kernel(text, host_.kernel_folder());
  }

  runtime::WorkPtr begin_copy(const at::Tensor& to, const at::Tensor& from) override {
    return std::make_unique<HostCopy>(gpu(index_), to, from);
  }

  void finish() override { C10_CUDA_CHECK(cudaStreamSynchronize(gpu(index_).compute)); }

 private:
  const int index_;
  const aten::CudaHost& host_;
};

class Library final : public aten::CudaLibrary {
 public:
  explicit Library(const aten::CudaHost& host) : host_(host) {}

  int gpu_count(std::string* why) override {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaSuccess && count > 0) return count;
    const bool is_none = error == cudaSuccess || error == cudaErrorNoDevice;
    *why =
        is_none ? aten::kNoGpu : std::string("the CUDA driver does not serve: ") + cudaGetErrorString(error);
    static_cast<void>(cudaGetLastError());  // nobody shall trip over it later
    return 0;
  }

  aten::GpuState state(int gpu) override {
    char pci_bus_id[32] = {};
    if (cudaDeviceGetPCIBusId(pci_bus_id, sizeof pci_bus_id, gpu) != cudaSuccess) {
      static_cast<void>(cudaGetLastError());
      return {};
    }
    return nvml_state(pci_bus_id);
  }

  // One for each GPU, so that an engine knows what an earlier one has left there.
  std::shared_ptr<runtime::MemorySource> memory(int gpu) override {
    const std::lock_guard<std::mutex> guard(lock_);
    auto& source = memory_[gpu];
    if (source == nullptr) source = make_memory(gpu);
    return source;
  }
  std::unique_ptr<aten::Machine> machine(int gpu) override {
    cuda::gpu(gpu);  // a GPU that cannot be had says so to whoever asks, and not on the worker's thread
    return std::make_unique<CudaMachine>(gpu, host_);
  }
  std::shared_ptr<runtime::Transport> transport(const std::vector<int>& gpus) override {
#ifdef MOAI_NCCL
    constexpr auto kPatience = std::chrono::minutes(10);  // as torch's process groups have it
    return make_nccl_transport(gpus, kPatience);
#else
    static_cast<void>(gpus);
    return nullptr;
#endif
  }

 private:
  const aten::CudaHost& host_;
  std::mutex lock_;
  std::map<int, std::shared_ptr<runtime::MemorySource>> memory_;  // by GPU
};

}  // namespace

}  // namespace moai::cuda

// For tests, which have no GPU: compiles a text for an architecture. Returns the bytes of machine code, or -1
// with what the compiler said in `log`.
extern "C" __attribute__((visibility("default"))) int64_t moai_compile_cuda(const char* text,
                                                                            const char* architecture,
                                                                            char* log, size_t log_bytes) {
  try {
    return static_cast<int64_t>(moai::cuda::compile(text, architecture).size());
  } catch (const std::exception& error) {
    std::strncpy(log, error.what(), log_bytes - 1);
    log[log_bytes - 1] = '\0';
    return -1;
  }
}

extern "C" __attribute__((visibility("default"))) moai::aten::CudaLibrary* moai_open_cuda_library(
    const char* version, const moai::aten::CudaHost* host) {
  if (std::strcmp(version, MOAI_VERSION) != 0) return nullptr;
  static auto* library = new moai::cuda::Library(*host);  // leaked: workers may outlive static destruction
  return library;
}
