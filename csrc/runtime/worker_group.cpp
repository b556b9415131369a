#include "runtime/worker_group.h"

#include <chrono>
#include <utility>

#include "ir/error.h"

namespace moai::runtime {

namespace {

std::string text_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& e) {
    // Torch's errors may carry a C++ backtrace, which is no reason.
    const std::string text = e.what();
    return text.substr(0, text.find("\nException raised from "));
  } catch (...) {
    return "unknown error";
  }
}

bool is_consequence(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const Cancelled&) {
    return true;
  } catch (...) {
    return false;
  }
}

bool names(const std::string& text, const std::string& device) {
  const auto at = text.find(device);
  const size_t end = at + device.size();
  // Not cpu:1 in cpu:10.
  return at != std::string::npos && (end == text.size() || text[end] < '0' || text[end] > '9');
}

// The error, with the device added if it does not name it.
std::exception_ptr naming(const std::exception_ptr& error, const std::string& device) {
  if (names(text_of(error), device)) return error;
  try {
    std::rethrow_exception(error);
  } catch (const Error& e) {
    Error named = e;
    return std::make_exception_ptr(named.detail("on " + device));
  } catch (...) {
    return std::make_exception_ptr(Error(Phase::kRun, text_of(error)).detail("on " + device));
  }
}

void lose(Cell& cell, const std::string& why) {
  for (const auto& part : cell.parts) {
    if (part) lose(*part, why);
  }
  if (cell.state.load(std::memory_order_relaxed) == Cell::State::kReady) return;
  cell.error = why;
  cell.state.store(Cell::State::kFailed, std::memory_order_release);
}

}  // namespace

WorkerGroup::WorkerGroup(std::function<void()> on_start) : devices_(1) {
  start([on_start = std::move(on_start)](int) {
    if (on_start) on_start();
  });
}

WorkerGroup::WorkerGroup(std::vector<std::string> devices, std::shared_ptr<Transport> transport,
                         std::function<void(int)> on_start)
    : devices_(std::move(devices)), transport_(std::move(transport)) {
  MOAI_ASSERT(!devices_.empty(), "a group of no workers");
  start(on_start);
}

void WorkerGroup::start(const std::function<void(int)>& on_start) {
  for (size_t d = 0; d < devices_.size(); ++d) {
    const auto device = static_cast<int>(d);
    threads_.emplace_back([this, device, on_start] {
      if (on_start) on_start(device);
      loop(device);
    });
  }
}

WorkerGroup::~WorkerGroup() {
  {
    const std::lock_guard<std::mutex> guard(lock_);
    stopping_ = true;
  }
  work_.notify_all();
  for (auto& thread : threads_) thread.join();
}

void WorkerGroup::submit(RunPtr run) {
  {
    const std::lock_guard<std::mutex> guard(lock_);
    if (failure_) {
      finish(run, failure_);
      done_.notify_all();  // somebody may have waited for it since before it came
      return;
    }
    queue_.push_back(std::move(run));
  }
  work_.notify_one();
}

// Called with the lock held.
void WorkerGroup::finish(const RunPtr& run, std::exception_ptr error) {
  const std::string why = error ? text_of(error) : std::string();
  for (const auto& cell : run->outputs) {
    if (!cell) continue;
    if (error) {
      lose(*cell, why);
    } else if (!cell->parts.empty() || cell->recipe != nullptr) {
      cell->state.store(Cell::State::kReady, std::memory_order_release);
    }
  }
  run->error = std::move(error);
  run->execute = nullptr;
  run->execute_on = nullptr;
  run->again = nullptr;
  run->inputs.clear();
  run->outputs.clear();
  run->done = true;
}

void WorkerGroup::loop(int device) {
  uint64_t turns = 0;  // that this worker has taken
  Guard guard(lock_);
  for (;;) {
    work_.wait(guard, [&] { return turns < turn_ || (!current_ && (stopping_ || !queue_.empty())); });
    if (turns < turn_) {
      ++turns;
      take_part(guard, device);
    } else if (!queue_.empty()) {
      begin(guard);
    } else {
      return;
    }
  }
}

// Runs `work` without the lock. Returns what it throws.
std::exception_ptr WorkerGroup::timed(Guard& guard, const std::function<void()>& work) {
  guard.unlock();
  std::exception_ptr error;
  const auto start = std::chrono::steady_clock::now();
  try {
    work();
  } catch (...) {
    error = std::current_exception();
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  guard.lock();
  busy_seconds_ += seconds.count();
  return error;
}

// What of the next run is done once, on whichever worker comes first.
void WorkerGroup::begin(Guard& guard) {
  current_ = std::move(queue_.front());
  queue_.pop_front();
  error_ = timed(guard, [run = current_.get()] { run->execute(*run); });
  if (error_ || !current_->execute_on) return complete(guard);
  left_ = devices_.size();
  ++turn_;
  work_.notify_all();
}

void WorkerGroup::take_part(Guard& guard, int device) {
  std::exception_ptr error;
  if (!error_) error = timed(guard, [run = current_.get(), device] { run->execute_on(*run, device); });
  if (error) {
    if (devices_.size() > 1 && !is_consequence(error)) error = naming(error, devices_[device]);
    if (!error_ || (is_consequence(error_) && !is_consequence(error))) error_ = error;
    // Waits for threads that move bytes; those never wait for our lock.
    if (transport_) transport_->fail(device, text_of(error));
  }
  if (--left_ == 0) complete(guard);
}

// Ends the current run. Called with the lock held and no worker in it.
void WorkerGroup::complete(Guard& guard) {
  const auto error = std::exchange(error_, nullptr);
  const bool cancelled = std::exchange(cancelling_, false);
  if (transport_ && (error || cancelled)) transport_->reset();
  if (error && !cancelled && current_->again && runs_again(guard)) return;
  if (error) {
    // Before its cells fail: who sees one asks for the failure, and without it can only call the value lost.
    failure_ = error;
    failed_.store(true, std::memory_order_relaxed);
  }
  finish(current_, error);
  current_ = nullptr;
  if (error) drop_queued(error);
  done_.notify_all();
  if (devices_.size() > 1) work_.notify_all();
}

// Whether the current run is queued once more, in front.
bool WorkerGroup::runs_again(Guard& guard) {
  guard.unlock();
  const bool again = current_->again(*current_);
  guard.lock();
  if (!again) return false;
  queue_.push_front(std::move(current_));
  current_ = nullptr;
  work_.notify_all();
  return true;
}

void WorkerGroup::drop_queued(const std::exception_ptr& why) {
  for (const auto& run : queue_) finish(run, why);
  queue_.clear();
}

bool WorkerGroup::wait(const Run& run) {
  Guard guard(lock_);
  done_.wait(guard, [&] { return run.done; });
  return !run.error;
}

bool WorkerGroup::wait_for(const Run& run, int milliseconds) {
  Guard guard(lock_);
  return done_.wait_for(guard, std::chrono::milliseconds(milliseconds), [&] { return run.done; });
}

bool WorkerGroup::is_done(const Run& run) {
  const std::lock_guard<std::mutex> guard(lock_);
  return run.done;
}

void WorkerGroup::wait_until_fewer(size_t limit) {
  Guard guard(lock_);
  done_.wait(guard, [&] { return queue_.size() + (current_ ? 1 : 0) < limit; });
}

bool WorkerGroup::wait_until_fewer_for(size_t limit, int milliseconds) {
  Guard guard(lock_);
  return done_.wait_for(guard, std::chrono::milliseconds(milliseconds),
                        [&] { return queue_.size() + (current_ ? 1 : 0) < limit; });
}

std::exception_ptr WorkerGroup::take_failure() {
  const std::lock_guard<std::mutex> guard(lock_);
  failed_.store(false, std::memory_order_relaxed);
  return std::exchange(failure_, nullptr);
}

void WorkerGroup::cancel_queued() {
  const std::lock_guard<std::mutex> guard(lock_);
  drop_queued(std::make_exception_ptr(Error(Phase::kRun, "cancelled before it ran")));
  done_.notify_all();
}

void WorkerGroup::cancel(const std::string& why) {
  cancel_queued();
  const std::lock_guard<std::mutex> guard(lock_);
  if (!current_ || !transport_) return;
  cancelling_ = true;
  transport_->fail(kNoDevice, why);
}

double WorkerGroup::busy_seconds() {
  const std::lock_guard<std::mutex> guard(lock_);
  return busy_seconds_;
}

}  // namespace moai::runtime
