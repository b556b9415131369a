#pragma once

#include <memory>
#include <vector>

#include "engine/engine.h"
#include "record/recorder.h"

namespace moai::record {

// What a launch changes in a storage, so that it can be taken back when the run fails.
struct Restore {
  c10::weak_intrusive_ptr<c10::StorageImpl> storage;
  runtime::CellPtr before;
  std::weak_ptr<runtime::Cell> after;  // which a run need not keep when the script has let go of it
};

// Queues a run and remembers what to take back. The recorder's lock must be held.
void launch(std::shared_ptr<engine::Trace> trace, std::vector<runtime::CellPtr> inputs,
            std::vector<runtime::Number> numbers, std::vector<engine::Held> held,
            std::vector<Restore> restores);

// Throws what a finished run threw, if one did since the last call, having given every storage
// the value that it had before that run: nothing of it, of what was queued behind it or of what
// is being recorded remains. Costs a load when all is well.
void rethrow_failure();

// The pool's `allocate` for a user's thread. Where there is no room it runs what is recorded, which may let
// go of memory, and tries again. Called without the lock. Throws c10::OutOfMemoryError.
runtime::BlockPtr allocate(int64_t bytes);

// Blocks while too many steps are in flight. Called without the lock.
void bound_flight();

// In recorder.cpp; the lock must be held.
void cut_all(CutReason reason);
void abandon_all();

}  // namespace moai::record
