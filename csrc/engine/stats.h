#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

namespace moai::engine {

// Counts of what happened since the process began, or since reset. Each is one relaxed add.
// Nanoseconds, as the statistics count.
inline int64_t ns_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start)
      .count();
}

struct Stats {
  std::atomic<int64_t> ops{0};           // recorded as nodes
  std::atomic<int64_t> ops_at_once{0};   // run at once
  std::atomic<int64_t> ops_followed{0};  // of `ops`, those that followed a known trace
  std::atomic<int64_t> cuts{0};
  std::atomic<int64_t> traces{0};  // distinct traces seen
  std::atomic<int64_t> hits{0};    // launches of a trace seen before
  std::atomic<int64_t> launches{0};
  std::atomic<int64_t> compiles{0};  // programs planned for a structure not seen before
  std::atomic<int64_t> resizes{0};   // programs planned for new sizes of a known structure
  std::atomic<int64_t> failures{0};  // runs that threw
  std::atomic<int64_t> bytes_to_device{0};
  std::atomic<int64_t> bytes_to_host{0};
  std::atomic<int64_t> record_ns{0};    // first sight only: a followed op is not timed
  std::atomic<bool> time_calls{false};  // adds up call_ns: two clock reads an op
  std::atomic<int64_t> call_ns{0};      // inside the recorder, while time_calls
  std::atomic<int64_t> compile_ns{0};
  std::atomic<int64_t> run_ns{0};
  std::atomic<int64_t> wait_ns{0};           // the user's threads waited for results
  std::atomic<int64_t> losses_in_chunks{0};  // of the programs made (compile/chunk)
  std::atomic<int64_t> searches{0};          // plans of several devices that were searched for
  std::atomic<int64_t> kept_plans{0};        // and those that an earlier process had kept
  std::atomic<int64_t> reconsidered{0};      // plans whose steps took other times than predicted
  std::atomic<int64_t> steps_run_again{0};   // since experts had too few slots for their rows
  std::atomic<int64_t> bytes_joined{0};      // of parts on several devices, for the host to read
  std::atomic<int64_t> steps{0};             // of optimizers
  std::atomic<int64_t> tokens{0};            // learnt from, where the script tells

  // By reason and op; few, so a lock is cheap enough.
  void count_cut(const std::string& reason);
  void count_at_once(const std::string& op);
  std::map<std::string, int64_t> cut_reasons() const;
  std::map<std::string, int64_t> at_once_ops() const;
  void reset();

 private:
  mutable std::mutex lock_;
  std::map<std::string, int64_t> cut_reasons_;
  std::map<std::string, int64_t> at_once_ops_;
};

Stats& stats();

}  // namespace moai::engine
