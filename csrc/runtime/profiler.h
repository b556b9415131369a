#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>

namespace moai::runtime {

// Spans of time for `moai.trace(path)`: what the host did and what the device did, on lanes of
// their own. Off, a span costs one load. Thread-safe.
class Profiler {
 public:
  enum class Lane : uint8_t { kHost, kDevice };

  static bool on() { return on_.load(std::memory_order_relaxed); }
  static void start();
  // Ends the profile and writes it in the Chrome trace event format, which Perfetto opens.
  // Throws Error(Phase::kRun) when the file cannot be written; the profile is dropped either way.
  static void stop(const std::string& path);

  static void add(Lane lane, std::string name, std::chrono::steady_clock::time_point start);

 private:
  static std::atomic<bool> on_;
};

// A span from here to the end of the scope.
class Span {
 public:
  Span(Profiler::Lane lane, const char* name) : lane_(lane), name_(Profiler::on() ? name : nullptr) {
    if (name_ != nullptr) start_ = std::chrono::steady_clock::now();
  }
  ~Span() {
    if (name_ != nullptr && Profiler::on()) Profiler::add(lane_, name_, start_);
  }
  Span(const Span&) = delete;
  Span& operator=(const Span&) = delete;

 private:
  Profiler::Lane lane_;
  const char* name_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace moai::runtime
