#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runtime/memory.h"

namespace moai::runtime {

// One of the virtual CPU devices of a process: memory of its own, and how many threads its kernels may use.
struct Device {
  int index;
  std::string name;  // `cpu:1`
  int threads;
  MemoryPool memory;

  // `is_only`: messages need not say which one.
  Device(int index, int threads, int64_t limit_bytes, bool is_only = false);
};

// `count` devices that share `cores` evenly, the first ones getting what is left over, and each at least one.
// Each may hold `limit_bytes` (< 0: no limit). Trips MOAI_ASSERT on counts below one.
std::vector<std::unique_ptr<Device>> make_devices(int count, int cores, int64_t limit_bytes);

}  // namespace moai::runtime
