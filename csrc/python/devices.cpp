// The kinds of devices that the process can have, and what is told of them.

#include <ATen/Parallel.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "engine/choose.h"
#include "engine/engine.h"
#include "engine/log.h"
#include "ir/error.h"
#include "kernels/aten/backend.h"
#include "kernels/aten/cuda_library.h"
#include "kernels/cpu/apart.h"
#include "kernels/cpu/machine.h"
#include "kernels/cpu/openmp.h"
#include "python/bindings.h"

namespace py = pybind11;

namespace moai {

namespace {

engine::Kind cpu_kind() {
  engine::Kind kind;
  kind.make = [](runtime::Device& device, runtime::Transport* transport) {
    return aten::make_backend(cpu::make_machine(device.threads), device, transport);
  };
  kind.cores = [] { return at::get_num_threads(); };
  kind.before_launch = &cpu::release_threads;  // see Note [Threads at hand]
  return kind;
}

// For tests, which ask for it by name: kernels/cpu/apart.h.
engine::Kind apart_kind(cpu::Fuses fuses) {
  engine::Kind kind;
  kind.devices = [](const engine::Settings& settings) {
    std::vector<std::unique_ptr<runtime::Device>> devices;
    for (int d = 0; d < settings.devices; ++d) {
      devices.push_back(std::make_unique<runtime::Device>(d, concat("apart:", d), 1, settings.memory_bytes,
                                                          settings.devices == 1, cpu::make_apart_memory()));
    }
    return devices;
  };
  kind.make = [fuses](runtime::Device& device, runtime::Transport* transport) {
    return aten::make_backend(cpu::make_apart_machine(fuses), device, transport);
  };
  return kind;
}

// The GPUs of a machine: what `Settings::indices` says is a number among the visible ones.
std::string name_of(int gpu) { return concat("cuda:", gpu); }

int number_of(const runtime::Device& device) {
  return std::stoi(device.name.substr(device.name.find(':') + 1));
}

aten::CudaLibrary& library() {
  std::string why;
  aten::CudaLibrary* library = aten::cuda_library(&why);
  MOAI_ASSERT(library != nullptr, "a GPU without libmoai_cuda: ", why);
  return *library;
}

engine::Lacking prepare_cuda(engine::Settings& settings) {
  // Whoever has a GPU has this file, even where the driver's libraries are not to be found.
  const bool has_gpu = access("/dev/nvidiactl", F_OK) == 0;
  std::string why;
  aten::CudaLibrary* library = aten::cuda_library(&why);
  if (library == nullptr) return {why, has_gpu};
  const int visible = library->gpu_count(&why);
  if (visible == 0) return {why, why != aten::kNoGpu};
  for (const int index : settings.indices) {
    if (index >= visible)
      return {concat("there is no ", name_of(index), " among ", visible, " visible GPUs"), true};
  }
  // Several are for whoever names them: no run has shown yet that they do better than one.
  if (settings.indices.empty()) {
    settings.indices = {0};
    if (visible > 1)
      engine::say(concat("of ", visible, " GPUs moai uses ", name_of(0), "; MOAI_DEVICES=cuda:0-",
                         visible - 1, " uses all"));
  }
  if (settings.indices.size() > 1 && library->transport(settings.indices) == nullptr)
    return {"libmoai_cuda was built without NCCL, which several GPUs talk through", true};
  settings.devices = static_cast<int>(settings.indices.size());
  return {};
}

engine::Kind cuda_kind() {
  engine::Kind kind;
  kind.prepare = &prepare_cuda;
  kind.devices = [](const engine::Settings& settings) {
    std::vector<std::unique_ptr<runtime::Device>> devices;
    for (const int gpu : settings.indices) {
      devices.push_back(std::make_unique<runtime::Device>(static_cast<int>(devices.size()), name_of(gpu), 1,
                                                          settings.memory_bytes, false,
                                                          library().memory(gpu)));
    }
    return devices;
  };
  kind.make = [](runtime::Device& device, runtime::Transport* transport) {
    return aten::make_backend(library().machine(number_of(device)), device, transport);
  };
  kind.transport = [](const engine::Settings& settings) { return library().transport(settings.indices); };
  return kind;
}

}  // namespace

py::list device_stats() {
  py::list devices;
  if (!engine::engine_exists()) return devices;
  for (const auto& device : engine::engine().devices()) {
    const auto memory = device->memory.stats();
    py::dict one;
    one["name"] = device->name;
    one["live_bytes"] = memory.live_bytes;
    one["peak_bytes"] = memory.peak_bytes;
    one["host_peak_bytes"] = device->host_memory.stats().peak_bytes;
    if (device->name.rfind("cuda:", 0) == 0) {
      const auto state = library().state(number_of(*device));
      one["gpu"] = state.name;
      one["memory_bytes"] = state.memory_bytes;
      one["used_bytes"] = state.used_bytes;
      one["utilisation"] = state.utilisation;
    }
    devices.append(one);
  }
  return devices;
}

void bind_devices(py::module_& m) {
  engine::configure(cpu_kind(), "cpu");
  engine::configure(cuda_kind(), "cuda");
  engine::configure(apart_kind(cpu::Fuses::kNo), "apart");
  engine::configure(apart_kind(cpu::Fuses::kYes), "fused");
  // Before the first use: their kind (empty: what there is), how many, which of the machine's (empty: all),
  // bytes that each may hold (< 0: no limit), their plan, the folder of what is kept between processes and
  // the one where `moai smi` looks (empty: none), what the devices reach as JSON of a cluster (empty: the
  // usual), and what tells this library from others.
  m.def(
      "configure_devices",
      [](const std::string& kind, int count, const std::vector<int>& indices, int64_t memory_bytes,
         const std::string& plan, const std::string& cache, const std::string& status,
         const std::string& cluster, int64_t chunk_bytes, const std::string& build) {
        engine::Settings settings;
        settings.devices = count;
        settings.memory_bytes = memory_bytes;
        settings.plan = plan;
        settings.cache = cache;
        settings.status = status;
        settings.cluster = cluster;
        settings.chunk_bytes = chunk_bytes;
        settings.build = build;
        settings.kind = kind;
        settings.indices = indices;
        engine::configure(std::move(settings));
      },
      py::arg("kind"), py::arg("count"), py::arg("indices"), py::arg("memory_bytes"), py::arg("plan"),
      py::arg("cache") = "", py::arg("status") = "", py::arg("cluster") = "", py::arg("chunk_bytes") = -1,
      py::arg("build") = "");
  // Raises where so many devices can have no such plan, whatever the step. `cluster` as above.
  m.def("check_plan",
        [](int count, const std::vector<int>& indices, const std::string& plan, const std::string& cluster) {
          engine::Settings settings;
          settings.devices = count;
          settings.indices = indices;
          settings.plan = plan;
          settings.cluster = cluster;
          const engine::Chooser checked(settings);
        });
  // Why no GPU can be had here; empty where one can.
  m.def("why_no_gpu", [] {
    engine::Settings settings;
    return prepare_cuda(settings).why;
  });
}

}  // namespace moai
