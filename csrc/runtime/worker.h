#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "runtime/run.h"

namespace moai::runtime {

// A thread that owns a device and executes runs in the order in which they were submitted.
//
// After a run fails, the runs queued behind it are cancelled (they read what it did not write)
// and the worker holds the failure until `take_failure`. All methods are callable from any thread.
class Worker {
 public:
  // `on_start` runs first on the worker's own thread.
  explicit Worker(std::function<void()> on_start = nullptr);
  // Finishes what was submitted, then joins.
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

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

  // Seconds spent executing.
  double busy_seconds();

 private:
  void loop();
  void finish(const RunPtr& run, std::exception_ptr error);

  std::mutex lock_;
  std::condition_variable work_;
  std::condition_variable done_;
  std::deque<RunPtr> queue_;
  RunPtr current_;
  std::exception_ptr failure_;
  std::atomic<bool> failed_{false};  // failure_ is set
  double busy_seconds_ = 0;
  bool stopping_ = false;
  std::function<void()> on_start_;
  std::thread thread_;  // last: starts when everything else stands
};

}  // namespace moai::runtime
