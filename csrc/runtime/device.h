#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runtime/memory.h"

namespace moai::runtime {

// One of the devices of a process: memory of its own, and how many of the machine's threads its kernels may
// use.
struct Device {
  int index;         // among the process's
  std::string name;  // `cpu:1`, `cuda:0`
  int threads;
  MemoryPool memory;
  MemoryPool host_memory;  // what its programs keep on the host: no part of the limit

  Device(int index_in, std::string name_in, int threads_in, int64_t limit_bytes, bool is_only = false,
         const std::shared_ptr<MemorySource>& source = runtime::host_memory())
      : index(index_in),
        name(std::move(name_in)),
        threads(threads_in),
        // Messages need not say which one where there is one.
        memory(limit_bytes, is_only ? "" : name, source),
        host_memory(-1, "", source->beside()) {}
};

// `count` virtual CPU devices that share `cores` evenly, the first ones getting what is left over, and each
// at least one. Each may hold `limit_bytes` (< 0: no limit). Trips MOAI_ASSERT on counts below one.
std::vector<std::unique_ptr<Device>> make_devices(int count, int cores, int64_t limit_bytes);

}  // namespace moai::runtime
