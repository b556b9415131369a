#include "kernels/cuda/nvrtc.h"

#include <ATen/cuda/CachingHostAllocator.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#include <nvrtc.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "compile/fuse/emit.h"
#include "ir/error.h"
#include "runtime/disk_cache.h"

namespace moai::cuda {

namespace {

class Program {
 public:
  explicit Program(const std::string& text) {
    check(nvrtcCreateProgram(&program_, text.c_str(), "moai_kernel.cu", 0, nullptr, nullptr));
  }
  ~Program() { nvrtcDestroyProgram(&program_); }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  std::string compile(const std::string& architecture) {
    const std::string option = "--gpu-architecture=" + architecture;
    const char* options[] = {option.c_str(), "--std=c++17", "-default-device", "--disable-warnings",
                             "--fmad=false"};  // each step is rounded, as ATen's ops are
    if (nvrtcCompileProgram(program_, 5, options) != NVRTC_SUCCESS) {
      constexpr size_t kMost = 2000;
      throw Error(Phase::kCompile, "NVRTC refuses a fused kernel").detail(log().substr(0, kMost));
    }
    size_t size = 0;
    check(nvrtcGetCUBINSize(program_, &size));
    std::string code(size, '\0');
    check(nvrtcGetCUBIN(program_, code.data()));
    return code;
  }

 private:
  static void check(nvrtcResult result) {
    if (result != NVRTC_SUCCESS)
      throw Error(Phase::kCompile, std::string("NVRTC fails: ") + nvrtcGetErrorString(result));
  }
  std::string log() {
    size_t size = 0;
    if (nvrtcGetProgramLogSize(program_, &size) != NVRTC_SUCCESS) return {};
    std::string text(size, '\0');
    if (nvrtcGetProgramLog(program_, text.data()) != NVRTC_SUCCESS) return {};
    return text.substr(0, text.find('\0'));
  }

  nvrtcProgram program_ = nullptr;
};

std::string compiler_version() {
  int major = 0, minor = 0;
  nvrtcVersion(&major, &minor);
  return std::to_string(major) + "." + std::to_string(minor);
}

// From pinned memory, which nobody gets again before it has been copied.
c10::DataPtr table_on_device(const std::vector<int64_t>& table, const c10::cuda::CUDAStream& stream) {
  const size_t bytes = table.size() * sizeof(int64_t);
  auto* pinned_memory = at::getHostAllocator(at::kCUDA);
  const c10::DataPtr pinned = pinned_memory->allocate(bytes);
  std::memcpy(pinned.get(), table.data(), bytes);
  c10::DataPtr device = c10::cuda::CUDACachingAllocator::get()->allocate(bytes);
  C10_CUDA_CHECK(cudaMemcpyAsync(device.get(), pinned.get(), bytes, cudaMemcpyHostToDevice, stream));
  pinned_memory->record_event(pinned.get(), pinned.get_context(), stream.unwrap());
  return device;
}

class FusedKernel final : public aten::CompiledKernel {
 public:
  explicit FusedKernel(const std::string& code) {
    C10_CUDA_CHECK(cudaLibraryLoadData(&library_, code.data(), nullptr, nullptr, 0, nullptr, nullptr, 0));
    C10_CUDA_CHECK(cudaLibraryGetKernel(&kernel_, library_, "moai_kernel"));
  }
  ~FusedKernel() override { C10_CUDA_IGNORE_ERROR(cudaLibraryUnload(library_)); }

  void launch(const compile::Launch& launch) override {
    constexpr int64_t kMostBlocks = 65535;  // each then does more
    if (launch.blocks == 0) return;
    const auto blocks = static_cast<unsigned>(std::min(launch.blocks, kMostBlocks));
    std::vector<int64_t> words = launch.words;
    const auto stream = c10::cuda::getCurrentCUDAStream();
    c10::DataPtr table;  // given back in the stream's order: the next that has it comes after this kernel
    if (!launch.table.empty()) {
      table = table_on_device(launch.table, stream);
      words[0] = reinterpret_cast<int64_t>(table.get());
    }
    void* arguments[] = {words.data()};
    C10_CUDA_CHECK(cudaLaunchKernel(reinterpret_cast<const void*>(kernel_), dim3(blocks),
                                    dim3(compile::kBlockThreads), arguments, 0, stream));
  }

 private:
  cudaLibrary_t library_ = nullptr;
  cudaKernel_t kernel_ = nullptr;
};

}  // namespace

std::string compile(const std::string& text, const std::string& architecture) {
  return Program(text).compile(architecture);
}

std::shared_ptr<aten::CompiledKernel> compiled_kernel(const std::string& text, const std::string& folder) {
  // Leaked: workers may outlive static destruction. A library serves every GPU of its architecture.
  static auto* lock = new std::mutex;
  static auto* known = new std::unordered_map<std::string, std::shared_ptr<FusedKernel>>;
  int device = 0, major = 0, minor = 0;
  C10_CUDA_CHECK(cudaGetDevice(&device));
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  const std::string architecture = concat("sm_", major, minor);
  const std::string source = concat(architecture, " nvrtc ", compiler_version(), "\n", text);
  const std::lock_guard<std::mutex> guard(*lock);
  auto& kernel = (*known)[source];
  if (kernel != nullptr) return kernel;
  const runtime::DiskCache cache(folder, ".cubin");
  auto code = cache.find(source);
  if (!code) {
    code = compile(text, architecture);
    cache.keep(source, *code);
  }
  kernel = std::make_shared<FusedKernel>(*code);
  return kernel;
}

}  // namespace moai::cuda
