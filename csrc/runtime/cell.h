#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runtime/memory.h"
#include "runtime/sharding.h"

namespace moai::runtime {

// How a value that was not kept is made when somebody reads it; whose it is knows more.
struct Recipe {
  Recipe() = default;
  Recipe(const Recipe&) = delete;
  Recipe& operator=(const Recipe&) = delete;
  virtual ~Recipe() = default;
};

// A value that lives between two traces: promised by a run when it is queued, filled when the run
// has finished. Whoever may still ask for the value holds a reference; a run that holds the only
// one need not keep it.
//
// Written by the thread that runs (before `state` becomes ready or failed), read by others after.
class Cell {
 public:
  enum class State : uint8_t { kPending, kReady, kFailed };

  explicit Cell(int64_t bytes_in) : bytes(bytes_in) {}
  // A value that is already there.
  static std::shared_ptr<Cell> ready(BlockPtr block, int64_t bytes) {
    auto cell = std::make_shared<Cell>(bytes);
    cell->block = std::move(block);
    cell->state.store(State::kReady, std::memory_order_release);
    return cell;
  }

  // Ready and without its value: a later run was overwriting it when it failed, or the run was a dry one.
  bool is_empty() const {
    for (const auto& part : parts) {
      if (part->is_empty()) return true;
    }
    return parts.empty() && block == nullptr && bytes > 0 && recipe == nullptr;
  }

  const int64_t bytes;
  BlockPtr block;  // set when ready; moved out when a later run overwrites it in place
  // By device, where the value lies on several: what it has of it, whole or a part, as `sharding` says. There
  // is no `block` then, and the cell is ready when a run has filled every part. Each part is a cell as an
  // Executable takes it. Set by the run's `execute`; of a cell that is ready, block and parts change under
  // the engine's lock alone.
  std::vector<std::shared_ptr<Cell>> parts;
  ShardingPtr sharding;
  std::shared_ptr<Recipe> recipe;  // in the place of parts; guarded as they are
  std::string error;               // set when failed: why the value is lost
  std::atomic<State> state{State::kPending};
  uint64_t run_id = 0;  // of the run that fills it; 0 when it was born ready
  uint64_t reader = 0;  // the last open segment that captured it; guarded by the recorder's lock
};
using CellPtr = std::shared_ptr<Cell>;

}  // namespace moai::runtime
