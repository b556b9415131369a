#pragma once

#include <ATen/core/stack.h>

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "record/repeat.h"
#include "record/trace.h"
#include "runtime/run.h"

namespace moai::record {

// Why a segment ended; `detail` names the op or the caller.
enum class CutReason : uint8_t {
  kHostRead,
  kOptimizerStep,
  kSync,
  kAtOnce,
  kRepeat,
  kOtherThread,
  kLimit,
  kExit
};
const char* cut_reason_name(CutReason reason);

// Note [The recorder's lock]
// One mutex guards storages, segments and the trie. It is held for the microsecond that an op
// takes and never while something else runs: not during a meta kernel (some are Python), not
// while waiting. Whoever needs it after such a pause looks again whether the segment is still the
// one it knew.
std::mutex& lock();
using Guard = std::unique_lock<std::mutex>;

// The ops recorded since the last cut.
struct Segment {
  uint64_t id = 0;
  TraceNode* at = nullptr;  // the last op
  int32_t next_value = 0;
  std::string diverged;       // how the first op that no known trace had differs, for the log
  size_t op_first_input = 0;  // inputs there were before the op that is being recorded
  std::vector<runtime::CellPtr> inputs;
  std::vector<const Layout*> input_layouts;
  std::vector<bool> donated;
  std::vector<std::pair<int32_t, const Hint*>> hints;  // by input, where there is one
  std::vector<Storage*> captured;                      // those that the op being recorded made inputs
  std::vector<runtime::Number> numbers;
  std::vector<c10::weak_intrusive_ptr<c10::StorageImpl>> written;  // storages that hold one of its values

  bool empty() const { return next_value == 0 && inputs.empty(); }
};

// What a user's thread has recorded and not yet launched. Autograd's threads record into the
// trace of the thread that called backward.
class Recorder {
 public:
  // The recorder of this thread.
  static Recorder& current();

  // Records a call, or does what the op's handling says. `stack` holds the arguments and receives
  // the returns.
  void call(const OpSchema& op, torch::jit::Stack& stack);

  // Ends the segment and queues it; does not wait. The lock must be held.
  void cut(CutReason reason, const std::string& detail);

  Segment segment;
  RepeatDetector repeats;

 private:
  void record(const OpSchema& op, torch::jit::Stack& stack);
  void follow(TraceNode& node, at::ArrayRef<at::IValue> args, torch::jit::Stack& returns);
};

// The value that `storage` holds now, as it will be once what is recorded has run: cuts where it is
// one of an open segment. Null when it was never written. The lock must be held.
runtime::CellPtr settle(Storage& storage, CutReason reason, const std::string& detail);

// Blocks until the cell is filled; throws what its run threw. Neither the recorder's lock nor the
// GIL is held meanwhile, and Ctrl-C ends the wait.
void wait(const runtime::CellPtr& cell);

// Cuts everywhere and blocks until nothing is queued.
void synchronize(CutReason reason);

// Ends this thread's segment where a user's step ends. Does not block, but for the bound on steps
// in flight.
void mark_step(CutReason reason);

// Runs an op now, on CPU tensors that share the memory of its arguments. `stack` as for call.
void run_at_once(const OpSchema& op, torch::jit::Stack& stack, const std::string& why);

// A CPU tensor with the value of a moai tensor: shares the device's memory when `share`, else copies.
// Cuts and waits. Throws when the value is lost.
enum class Read : uint8_t { kShare, kCopy };
at::Tensor to_cpu(const at::Tensor& tensor, Read read, const std::string& why);

// A moai tensor with the value that `source` (CPU, any strides) has now.
at::Tensor snapshot(const at::Tensor& source);

// A call with a tensor that is not moai's: CPU index tensors are moved, as CUDA does, the rest is
// eager's error.
void record_foreign(const OpSchema& op, torch::jit::Stack& stack);

// Replaces the storage's value; its old one stays with whoever captured it. The lock must be held.
void set_value(Storage& storage, const Layout* layout, runtime::CellPtr cell);

}  // namespace moai::record
