#include "runtime/worker.h"

#include <chrono>

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

}  // namespace

Worker::Worker(std::function<void()> on_start)
    : on_start_(std::move(on_start)), thread_([this] { loop(); }) {}

Worker::~Worker() {
  {
    const std::lock_guard<std::mutex> guard(lock_);
    stopping_ = true;
  }
  work_.notify_all();
  thread_.join();
}

void Worker::submit(RunPtr run) {
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
void Worker::finish(const RunPtr& run, std::exception_ptr error) {
  if (error) {
    const std::string why = text_of(error);
    for (const auto& cell : run->outputs) {
      if (!cell || cell->state.load(std::memory_order_relaxed) == Cell::State::kReady) continue;
      cell->error = why;
      cell->state.store(Cell::State::kFailed, std::memory_order_release);
    }
  }
  run->error = std::move(error);
  run->execute = nullptr;
  run->inputs.clear();
  run->outputs.clear();
  run->done = true;
}

void Worker::loop() {
  if (on_start_) on_start_();
  std::unique_lock<std::mutex> guard(lock_);
  for (;;) {
    work_.wait(guard, [this] { return stopping_ || !queue_.empty(); });
    if (queue_.empty()) return;
    current_ = std::move(queue_.front());
    queue_.pop_front();
    guard.unlock();
    std::exception_ptr error;
    const auto start = std::chrono::steady_clock::now();
    try {
      current_->execute(*current_);
    } catch (...) {
      error = std::current_exception();
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    guard.lock();
    busy_seconds_ += seconds.count();
    if (error) {
      // Before its cells fail: who sees one asks for the failure, and without it can only call the value
      // lost.
      failure_ = error;
      failed_.store(true, std::memory_order_relaxed);
    }
    finish(current_, error);
    if (error) {
      for (const auto& run : queue_) finish(run, error);
      queue_.clear();
    }
    current_ = nullptr;
    done_.notify_all();
  }
}

bool Worker::wait(const Run& run) {
  std::unique_lock<std::mutex> guard(lock_);
  done_.wait(guard, [&] { return run.done; });
  return !run.error;
}

bool Worker::wait_for(const Run& run, int milliseconds) {
  std::unique_lock<std::mutex> guard(lock_);
  return done_.wait_for(guard, std::chrono::milliseconds(milliseconds), [&] { return run.done; });
}

bool Worker::is_done(const Run& run) {
  const std::lock_guard<std::mutex> guard(lock_);
  return run.done;
}

void Worker::wait_until_fewer(size_t limit) {
  std::unique_lock<std::mutex> guard(lock_);
  done_.wait(guard, [&] { return queue_.size() + (current_ ? 1 : 0) < limit; });
}

bool Worker::wait_until_fewer_for(size_t limit, int milliseconds) {
  std::unique_lock<std::mutex> guard(lock_);
  return done_.wait_for(guard, std::chrono::milliseconds(milliseconds),
                        [&] { return queue_.size() + (current_ ? 1 : 0) < limit; });
}

std::exception_ptr Worker::take_failure() {
  const std::lock_guard<std::mutex> guard(lock_);
  failed_.store(false, std::memory_order_relaxed);
  return std::exchange(failure_, nullptr);
}

void Worker::cancel_queued() {
  const std::lock_guard<std::mutex> guard(lock_);
  const auto why = std::make_exception_ptr(Error(Phase::kRun, "cancelled before it ran"));
  for (const auto& run : queue_) finish(run, why);
  queue_.clear();
  done_.notify_all();
}

double Worker::busy_seconds() {
  const std::lock_guard<std::mutex> guard(lock_);
  return busy_seconds_;
}

}  // namespace moai::runtime
