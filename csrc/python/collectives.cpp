#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "python/bindings.h"
#include "runtime/device.h"
#include "runtime/shared_memory.h"

namespace py = pybind11;

namespace moai {

namespace {

using namespace runtime;

// Seconds of each of `rounds` all-reduces of `bytes` (of fp32) between virtual devices, in shared memory.
std::vector<double> time_all_reduce(int devices, int64_t bytes, int rounds) {
  const auto made = make_devices(devices, 1, -1);
  std::vector<std::string> names;
  std::vector<int> all;
  for (const auto& device : made) {
    names.push_back(device->name);
    all.push_back(device->index);
  }
  SharedMemory memory(names);
  std::vector<double> seconds;
  const auto work = [&](Device& device, Communicator& group) {
    const int64_t elements = bytes / 4;
    const BlockPtr block = device.memory.allocate(elements * 4);
    std::memset(block->data, 0, static_cast<size_t>(elements * 4));
    const auto what = Collective::all_reduce(ir::DType::kF32, {elements}, Reduce::kSum);
    for (int round = -2; round < rounds; ++round) {  // two to warm up
      group.start(Collective::barrier(), nullptr, nullptr)->wait();
      const auto start = std::chrono::steady_clock::now();
      group.start(what, block->data, block->data)->wait();
      const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
      if (round >= 0 && device.index == 0) seconds.push_back(taken.count());
    }
  };
  std::vector<std::thread> threads;
  for (int d = 0; d < devices; ++d) threads.emplace_back([&, d] { work(*made[d], *memory.join(all, d)); });
  for (auto& thread : threads) thread.join();
  return seconds;
}

}  // namespace

void bind_collectives(py::module_& m) {
  m.def("time_all_reduce", &time_all_reduce, py::arg("devices"), py::arg("bytes"), py::arg("rounds"),
        py::call_guard<py::gil_scoped_release>());
}

}  // namespace moai
