#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "runtime/backend.h"

namespace moai::engine {

// What the process's device is made of.
struct Settings {
  int devices = 1;
  int64_t memory_bytes = -1;  // that each may hold; < 0: no limit
  std::string plan;    // of several devices: `fastest` (or empty), pins (plan/planner.h), JSON of a plan
  std::string cache;   // folder of what is kept between processes; empty: nothing is
  std::string status;  // folder in which `moai smi` finds this process; empty: it does not
  std::string build;   // of this library: another one may plan otherwise
  std::string kind = "cpu";  // as `configure` names it; empty: the best that is found, else the CPU
  int64_t chunk_bytes = -1;  // a loss's values that are larger go in chunks (compile/chunk); < 0: none do
  std::vector<int> indices = {};  // which of the machine's; empty: all of them. Of kinds other than the CPU
  std::string cluster = {};       // JSON of what the devices reach, as measured; empty: what is usual

  // The part of `cache` for one kind of things; empty: nowhere.
  std::string cache_of(const char* things) const { return cache.empty() ? "" : cache + "/" + things; }
};

// Why a kind of device cannot be had.
struct Lacking {
  std::string why;             // empty: it can
  bool is_surprising = false;  // one would expect it here, from what the machine has
};

// One kind of device.
struct Kind {
  std::function<std::unique_ptr<runtime::Backend>(runtime::Device&, runtime::Transport*)> make;
  std::function<int()> cores = [] { return 1; };  // which the devices share
  // Called on a script's thread that hands over what it recorded.
  std::function<void()> before_launch = [] {};
  // Looks whether the devices can be had, and says in `settings` how many and which. Null: they can, and are
  // had where they are asked for by name alone.
  std::function<Lacking(Settings& settings)> prepare = nullptr;
  // The devices; null: virtual ones on the CPU.
  std::function<std::vector<std::unique_ptr<runtime::Device>>(const Settings&)> devices = nullptr;
  // What several of them talk through; null: shared memory.
  std::function<std::shared_ptr<runtime::Transport>(const Settings&)> transport = nullptr;
};

}  // namespace moai::engine
