#pragma once

#include <condition_variable>
#include <mutex>

namespace moai::runtime {

// Where threads wait for what atomics tell: a short spin, since most waits between workers in step are
// short, then sleep. Whoever changes what is waited for calls `wake` afterwards.
class Parker {
 public:
  template <typename Ready>
  void wait(const Ready& ready) {
    for (int spin = 0; spin < kSpins; ++spin) {
      if (ready()) return;
      pause();
    }
    std::unique_lock<std::mutex> guard(lock_);
    wake_.wait(guard, ready);
  }
  void wake() {
    // A waiter that looked before the change and does not sleep yet holds the lock.
    { const std::lock_guard<std::mutex> guard(lock_); }
    wake_.notify_all();
  }

 private:
  static constexpr int kSpins = 100;  // a few microseconds
  static void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  std::mutex lock_;
  std::condition_variable wake_;
};

}  // namespace moai::runtime
