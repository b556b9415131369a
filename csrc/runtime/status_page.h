#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace moai::runtime {

// Note [How a process shows itself]
// A process that uses moai has a small file in a folder of its user, mapped in memory: `moai smi` maps it
// too and reads what stands there, while the process only stores numbers. Nobody waits for anybody, no
// thread serves it, and a process that hangs is seen to hang. Devices' counters are single words, read
// one by one; the text has a version that is odd while it changes. A reader tells a file that was left behind
// by the process's number and the time at which it began. python/moai/smi.py reads this layout: kVersion
// changes with it.
struct StatusLayout {
  static constexpr uint64_t kMagic = 0x31696d7369616f6d;  // "moaismi1"
  static constexpr uint32_t kVersion = 2;
  static constexpr int kTextBytes = 1024;
  static constexpr int kNameBytes = 16;

  std::atomic<uint64_t> magic;  // written last: before, there is nothing to be read
  uint32_t version;             // of this layout
  uint32_t devices;
  int64_t pid;
  int64_t began;                // in clock ticks since the machine started, as in /proc/PID/stat; 0: unknown
  std::atomic<int64_t> steps;   // of optimizers
  std::atomic<int64_t> tokens;  // learnt from, where the script tells; else 0
  std::atomic<int64_t> text_version;  // odd while the text changes
  char text[kTextBytes];              // how a step is shared, in words; ends in 0

  struct Device {
    std::atomic<int64_t> live_bytes;
    std::atomic<int64_t> peak_bytes;
    std::atomic<int64_t> reserved_bytes;
    int64_t limit_bytes;             // < 0: none
    std::atomic<int64_t> busy_ns;    // computing or moving bytes, in runs that ended
    std::atomic<int64_t> waited_ns;  // for other devices, in runs that ended
    std::atomic<int64_t> since_ns;   // of CLOCK_MONOTONIC: when the run began that it is in; 0: in none
    char name[kNameBytes];           // `cuda:0`; ends in 0
  };
  Device device[1];  // `devices` of them
};

// This process's page, for as long as it lives. A child that is forked has none.
class StatusPage {
 public:
  // In `folder`, which is made, for this user alone; `devices`: their names. Null where that cannot be:
  // nothing else depends on it.
  static std::unique_ptr<StatusPage> make(const std::string& folder, const std::vector<std::string>& devices,
                                          int64_t limit_bytes);
  ~StatusPage();
  StatusPage(const StatusPage&) = delete;
  StatusPage& operator=(const StatusPage&) = delete;

  // One thread at a time calls these four.
  void set_text(const std::string& text);
  void set_counts(int64_t steps, int64_t tokens);
  void begin_run(int device);
  void end_run(int device, int64_t busy_ns, int64_t waited_ns);

  void set_memory(int device, int64_t live_bytes, int64_t peak_bytes, int64_t reserved_bytes);

 private:
  StatusPage(std::string path, StatusLayout* page, size_t bytes);

  std::string path_;
  StatusLayout* page_;
  size_t bytes_;
  std::string text_;
};

}  // namespace moai::runtime
