#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "runtime/memory_source.h"

namespace moai::runtime {

// A run of device memory with one owner chain: freed, or given back to its pool, with the last
// reference.
struct Block {
  void* data = nullptr;
  int64_t bytes = 0;
  std::shared_ptr<MemorySource>
      source;                     // how the host gets at it; null: it reads and writes it where it lies
  std::function<void()> release;  // called once, from whichever thread drops the last reference

  Block(void* data_in, int64_t bytes_in, std::function<void()> release_in,
        std::shared_ptr<MemorySource> source_in = nullptr)
      : data(data_in), bytes(bytes_in), source(std::move(source_in)), release(std::move(release_in)) {}
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  ~Block() {
    if (release) release();
  }
};
using BlockPtr = std::shared_ptr<Block>;

struct MemoryStats {
  int64_t live_bytes = 0;      // handed out and not returned
  int64_t peak_bytes = 0;      // most that was live at once since reset_peak
  int64_t reserved_bytes = 0;  // taken from the system: live and cached
};

// The memory of one device. Blocks are aligned as their source aligns them and kept for re-use: fresh pages
// of a host cost a fault for every 4 KiB, and a GPU waits for all that it does. Thread-safe.
class MemoryPool {
 public:
  // `limit_bytes`: most that it takes from the system, blocks kept for re-use included; < 0: no limit.
  // `device`: whose it is, for messages; empty where there is one device.
  explicit MemoryPool(int64_t limit_bytes = -1, const std::string& device = "",
                      std::shared_ptr<MemorySource> source = host_memory());
  ~MemoryPool();
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  // Contents are undefined. Zero bytes give a block with a null pointer.
  // Throws OutOfMemory when the limit or the machine has no room for it.
  BlockPtr allocate(int64_t bytes);

  // As its blocks say it: null where the host reads and writes them.
  std::shared_ptr<MemorySource> source() const;

  // What a block of so many bytes takes of the limit.
  static int64_t size_of(int64_t bytes);
  bool has_limit() const;
  // Does the limit have room for so many bytes more, with a share of it (0 to 1) left over?
  bool has_room(int64_t bytes, double left_over) const;
  // Throws OutOfMemory when the limit has no room for so many bytes more.
  void check_room(int64_t bytes) const;

  // Hands cached blocks back to the system.
  void trim();
  MemoryStats stats() const;
  void reset_peak();

 private:
  struct State;
  std::shared_ptr<State> state_;  // blocks keep it alive
};

}  // namespace moai::runtime
