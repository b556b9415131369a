// What tests of threads share. Assertions belong to the test's own thread: Catch2 counts them unlocked.
#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace moai {

// Holds whoever passes until it is opened; opens by itself at the end, so that a failed assertion
// cannot leave a worker waiting for ever.
class Gate {
 public:
  ~Gate() { open(); }
  void open() {
    const std::lock_guard<std::mutex> guard(lock_);
    is_open_ = true;
    opened_.notify_all();
  }
  void pass() {
    std::unique_lock<std::mutex> guard(lock_);
    opened_.wait(guard, [this] { return is_open_; });
  }

 private:
  std::mutex lock_;
  std::condition_variable opened_;
  bool is_open_ = false;
};

// Calls `work(0)` to `work(count - 1)`, each on a thread of its own, and waits for all.
inline void in_threads(int count, const std::function<void(int)>& work) {
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) threads.emplace_back(work, i);
  for (auto& thread : threads) thread.join();
}

inline std::string text_of(const std::exception_ptr& error) {
  if (!error) return "no error";
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& e) {
    return e.what();
  } catch (...) {
    return "no std::exception";
  }
}

// What a call throws.
inline std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (...) {
    return text_of(std::current_exception());
  }
  return "no error";
}

}  // namespace moai
