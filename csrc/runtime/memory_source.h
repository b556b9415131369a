#pragma once

#include <cstdint>
#include <memory>

namespace moai::runtime {

class MemorySource;

// The host's memory: large blocks are huge pages where the system has them.
std::shared_ptr<MemorySource> host_memory();

// Where a device's memory comes from, and how bytes cross between it and the host. Thread-safe.
class MemorySource {
 public:
  virtual ~MemorySource() = default;

  // Aligned to 64 bytes or more; contents are undefined. Null when there is no room.
  virtual void* take(int64_t bytes) = 0;
  // `bytes`: as taken.
  virtual void give_back(void* data, int64_t bytes) = 0;

  // Whether the host reads and writes it where it lies. If not, nobody but the device touches it, and these
  // copy; each returns when the bytes are there. Only of memory that no run is using.
  virtual bool is_host() const = 0;
  virtual void to_host(void* host, const void* device, int64_t bytes) = 0;
  virtual void to_device(void* device, const void* host, int64_t bytes) = 0;

  // The host's memory as the device's own copies reach it best.
  virtual std::shared_ptr<MemorySource> beside() { return host_memory(); }
};

}  // namespace moai::runtime
