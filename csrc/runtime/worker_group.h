#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "runtime/communicator.h"
#include "runtime/run.h"

namespace moai::runtime {

// The workers of a process: a thread for each device. They execute runs in the order in which they were
// submitted and in lock step: no device begins a run before every device has ended the one before, so that
// a failure never reaches back into a run that succeeded.
//
// When a run fails on one device the others are woken from their collectives; once all are out of it the
// run has failed as a whole, the runs queued behind it are cancelled (they read what it did not write) and
// the group holds one failure, the cause and not what followed from it, until `take_failure`.
// All methods are callable from any thread but the workers'.
class WorkerGroup {
 public:
  // One device. `on_start` runs first on its thread.
  explicit WorkerGroup(std::function<void()> on_start = nullptr);
  // `devices`: their names. `transport`: what their runs talk through; the group alone fails and resets it.
  WorkerGroup(std::vector<std::string> devices, std::shared_ptr<Transport> transport,
              std::function<void(int device)> on_start = nullptr);
  // Finishes what was submitted, then joins.
  ~WorkerGroup();
  WorkerGroup(const WorkerGroup&) = delete;
  WorkerGroup& operator=(const WorkerGroup&) = delete;

  // Queues a run. Fails it at once when a failure is being held.
  void submit(RunPtr run);
  // Blocks until `run` is done; true when it succeeded.
  bool wait(const Run& run);
  // Blocks until fewer than `limit` runs are unfinished.
  void wait_until_fewer(size_t limit);
  // Like the above but gives up after `milliseconds`; true when it came true. For callers that
  // look for signals between two waits.
  bool wait_until_fewer_for(size_t limit, int milliseconds);
  bool wait_for(const Run& run, int milliseconds);
  bool is_done(const Run& run);

  // The first failure since the last call, or null. Clears it: later runs execute again.
  std::exception_ptr take_failure();
  // One load: asked before each recorded op.
  bool has_failed() const { return failed_.load(std::memory_order_relaxed); }
  // Drops the runs that have not begun.
  void cancel_queued();
  // Drops them, and ends the one that has begun, if any, at its devices' next collectives. `why` is told.
  void cancel(const std::string& why);

  // Seconds spent executing, added over the devices.
  double busy_seconds();

 private:
  using Guard = std::unique_lock<std::mutex>;
  void start(const std::function<void(int)>& on_start);
  void loop(int device);
  void begin(Guard& guard);
  void take_part(Guard& guard, int device);
  std::exception_ptr timed(Guard& guard, const std::function<void()>& work);
  void complete(Guard& guard);
  bool runs_again(Guard& guard);
  void finish(const RunPtr& run, std::exception_ptr error);
  void drop_queued(const std::exception_ptr& why);

  const std::vector<std::string> devices_;
  const std::shared_ptr<Transport> transport_;  // null for one device
  std::mutex lock_;
  std::condition_variable work_;
  std::condition_variable done_;
  std::deque<RunPtr> queue_;
  RunPtr current_;
  uint64_t turn_ = 0;         // runs that the devices have been told to take part in
  size_t left_ = 0;           // devices that still have to end their part of the current one
  std::exception_ptr error_;  // of the current run, so far
  bool cancelling_ = false;   // the transport was failed by `cancel`
  std::exception_ptr failure_;
  std::atomic<bool> failed_{false};  // failure_ is set
  double busy_seconds_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> threads_;  // last: they start when everything else stands
};

}  // namespace moai::runtime
