#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "runtime/backend.h"

namespace moai::engine {

// What the process's device is made of.
struct Settings {
  int devices = 1;
  int64_t memory_bytes = -1;  // that each may hold; < 0: no limit
  std::string plan;        // of several devices: `fastest` (or empty), pins (plan/planner.h), JSON of a plan
  std::string plan_cache;  // folder of plans kept between processes; empty: none are
  std::string status;      // folder in which `moai smi` finds this process; empty: it does not
  std::string build;       // of this library: another one may plan otherwise
};

// One kind of device.
struct Kind {
  std::function<std::unique_ptr<runtime::Backend>(runtime::Device&, runtime::Transport*)> make;
  std::function<int()> cores = [] { return 1; };  // which the devices share
};

}  // namespace moai::engine
