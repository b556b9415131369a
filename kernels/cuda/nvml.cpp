#include "kernels/cuda/nvml.h"

#include <dlfcn.h>

#include <cstdint>

namespace moai::cuda {

namespace {

// The part of NVML's interface that is used here. It comes with the driver, its header with neither the
// driver nor the toolkit's packages.
struct Nvml {
  using Device = struct NvmlDevice*;
  struct Memory {
    unsigned long long total, free, used;
  };
  struct Utilisation {
    unsigned int gpu, memory;
  };

  int (*init)() = nullptr;
  int (*by_pci)(const char*, Device*) = nullptr;
  int (*name)(Device, char*, unsigned int) = nullptr;
  int (*memory)(Device, Memory*) = nullptr;
  int (*utilisation)(Device, Utilisation*) = nullptr;
  bool is_there = false;

  Nvml() {
    void* library = dlopen("libnvidia-ml.so.1", RTLD_LAZY | RTLD_LOCAL);
    if (library == nullptr) return;
    const bool has_all =
        find(library, "nvmlInit_v2", &init) && find(library, "nvmlDeviceGetHandleByPciBusId_v2", &by_pci) &&
        find(library, "nvmlDeviceGetName", &name) && find(library, "nvmlDeviceGetMemoryInfo", &memory) &&
        find(library, "nvmlDeviceGetUtilizationRates", &utilisation);
    is_there = has_all && init() == 0;
  }

 private:
  template <typename Function>
  static bool find(void* library, const char* symbol, Function* out) {
    *out = reinterpret_cast<Function>(dlsym(library, symbol));
    return *out != nullptr;
  }
};

}  // namespace

aten::GpuState nvml_state(const char* pci_bus_id) {
  static const Nvml nvml;
  aten::GpuState state;
  Nvml::Device device = nullptr;
  if (!nvml.is_there || nvml.by_pci(pci_bus_id, &device) != 0) return state;
  char name[96] = {};
  if (nvml.name(device, name, sizeof name) == 0) state.name = name;
  Nvml::Memory memory{};
  if (nvml.memory(device, &memory) == 0) {
    state.memory_bytes = static_cast<int64_t>(memory.total);
    state.used_bytes = static_cast<int64_t>(memory.used);
  }
  Nvml::Utilisation utilisation{};
  if (nvml.utilisation(device, &utilisation) == 0) state.utilisation = static_cast<int>(utilisation.gpu);
  return state;
}

}  // namespace moai::cuda
