#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "runtime/cell.h"

namespace moai::runtime {

// One number of a step, by its kind in the graph (see Note [Numbers are inputs]).
union Number {
  int64_t i;
  double f;
};

// One execution of a trace, queued on a group of workers.
struct Run {
  uint64_t id = 0;
  std::vector<CellPtr> inputs;   // by graph input; a null entry is one that the graph does not use
  std::vector<Number> numbers;   // by number position
  std::vector<CellPtr> outputs;  // by graph output
  // What runs it, on a worker's thread. Fills `outputs`; throws on failure, having left the
  // inputs as they were or having emptied (`block == nullptr`) those that it could not keep.
  std::function<void(Run&)> execute;
  // On several devices: what each runs at the same time, on its worker's thread, after `execute` has decided
  // what that is. Fills the outputs' parts. Fails as `execute` does: so that a run which fails on one device
  // leaves the inputs' parts as they were on every other, programs have a barrier (Collective::barrier)
  // between their last instruction that can raise and their first that writes an input.
  std::function<void(Run&, int device)> execute_on;
  // Asked when it has failed, with every device out of it and no lock held: whether it is to run once more,
  // before any other. Makes it ready for that. Does not throw.
  std::function<bool(Run&)> again;
  std::atomic<bool> lacks_slots{false};  // that is why it failed (OutOfSlots)
  std::exception_ptr error;              // why it failed; set before `done`
  bool done = false;                     // guarded by the group's lock
};
using RunPtr = std::shared_ptr<Run>;

}  // namespace moai::runtime
