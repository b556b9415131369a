#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runtime/memory.h"

namespace moai::runtime {

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

  const int64_t bytes;
  BlockPtr block;  // set when ready; moved out when a later run overwrites it in place
  // By device, where the value lies on several: what it has of it, whole or a part; null where nothing. There
  // is no `block` then, and the cell is ready when a run has filled every part. Each part is a cell as an
  // Executable takes it. Set before the run is queued, or by the run's `execute`.
  std::vector<std::shared_ptr<Cell>> parts;
  std::string error;  // set when failed: why the value is lost
  std::atomic<State> state{State::kPending};
  uint64_t run_id = 0;  // of the run that fills it; 0 when it was born ready
  uint64_t reader = 0;  // the last open segment that captured it; guarded by the recorder's lock
};
using CellPtr = std::shared_ptr<Cell>;

}  // namespace moai::runtime
