#include "kernels/aten/cuda_library.h"

#include <dlfcn.h>

#include <mutex>
#include <utility>

#include "kernels/aten/placement.h"
#include "kernels/aten/random.h"
#include "kernels/aten/stand_in.h"
#include "runtime/disk_cache.h"

namespace moai::aten {

namespace {

struct Loaded {
  CudaLibrary* library = nullptr;
  std::string why;  // where there is none
};

// Beside the extension, which this code is in.
std::string path_of_library() {
  Dl_info place;
  if (dladdr(reinterpret_cast<const void*>(&cuda_library), &place) == 0) return {};
  const std::string path = place.dli_fname;
  return path.substr(0, path.rfind('/') + 1) + "libmoai_cuda.so";
}

Sampler sampler_on_host(const std::string& op, c10::Device device) {
  const SamplerFn sampler = find_sampler(op);
  return sampler == nullptr ? Sampler() : by_way_of_host(sampler, device);
}

Loaded load() {
  // Never unloaded: torch's own libraries would not be either.
  if (dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL) == nullptr)
    return {nullptr, "there is no CUDA driver (libcuda.so.1)"};
  if (dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD) == nullptr)
    return {nullptr, "this torch was built without CUDA (libtorch_cuda.so is not loaded)"};
  void* handle = dlopen(path_of_library().c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return {nullptr, std::string("libmoai_cuda cannot be loaded: ") + dlerror()};
  const auto open = reinterpret_cast<OpenCudaLibrary>(dlsym(handle, kOpenCudaLibrary));
  static const CudaHost host{&claim_place, &return_place, &sampler_on_host, &stand_in,
                             &runtime::kernel_folder};
  CudaLibrary* library = open == nullptr ? nullptr : open(MOAI_VERSION, &host);
  if (library == nullptr)
    return {nullptr, "libmoai_cuda belongs to another version of moai than " MOAI_VERSION};
  return {library, {}};
}

}  // namespace

CudaLibrary* cuda_library(std::string* why) {
  static const Loaded loaded = load();
  *why = loaded.why;
  return loaded.library;
}

}  // namespace moai::aten
