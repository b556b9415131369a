#include "runtime/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <vector>

#include "ir/error.h"

namespace moai::runtime {

namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;
// From here on a block is mapped for itself and can be given back to the system.
constexpr int64_t kMapped = int64_t{1} << 20;
// Beyond any machine's address space, and sums with it do not overflow.
constexpr int64_t kTooMuch = int64_t{1} << 62;

int64_t rounded(int64_t bytes) {
  if (bytes >= kTooMuch) return kTooMuch;
  if (bytes >= kHugePage) return (bytes + kHugePage - 1) / kHugePage * kHugePage;
  if (bytes >= kMapped) return kHugePage;
  int64_t size = 64;
  while (size < bytes) size *= 2;
  return size;
}

void* take(int64_t bytes) {
  if (bytes < kMapped) {
    void* data = nullptr;
    return posix_memalign(&data, 64, static_cast<size_t>(bytes)) == 0 ? data : nullptr;
  }
  // Mapped with room to spare and cut to a huge page's boundary, else the kernel cannot use one.
  const auto length = static_cast<size_t>(bytes + kHugePage);
  void* raw =
      mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) return nullptr;
  const auto start = reinterpret_cast<uintptr_t>(raw);
  const uintptr_t aligned = (start + kHugePage - 1) / kHugePage * kHugePage;
  if (aligned > start) munmap(raw, aligned - start);
  const uintptr_t end = start + length;
  const uintptr_t wanted_end = aligned + static_cast<uintptr_t>(bytes);
  if (end > wanted_end) munmap(reinterpret_cast<void*>(wanted_end), end - wanted_end);
  auto* data = reinterpret_cast<void*>(aligned);
  madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  return data;
}

void give_back(void* data, int64_t bytes) {
  if (bytes < kMapped) {
    std::free(data);
  } else {
    munmap(data, static_cast<size_t>(bytes));
  }
}

}  // namespace

struct MemoryPool::State {
  mutable std::mutex lock;
  const int64_t limit_bytes;
  const std::string where;  // " on cpu:1", or nothing
  MemoryStats stats;
  std::map<int64_t, std::vector<void*>> cached;  // by rounded size

  State(int64_t limit, const std::string& device)
      : limit_bytes(limit), where(device.empty() ? "" : " on " + device) {}
  ~State() { drop_cached(); }

  void drop_cached() {
    for (auto& [bytes, list] : cached) {
      for (void* data : list) give_back(data, bytes);
      stats.reserved_bytes -= bytes * static_cast<int64_t>(list.size());
    }
    cached.clear();
  }

  void* find_cached(int64_t bytes) {
    const auto it = cached.find(bytes);
    if (it == cached.end() || it->second.empty()) return nullptr;
    void* data = it->second.back();
    it->second.pop_back();
    return data;
  }

  void returned(void* data, int64_t size) {
    const std::lock_guard<std::mutex> guard(lock);
    stats.live_bytes -= size;
    cached[size].push_back(data);
  }
};

MemoryPool::MemoryPool(int64_t limit_bytes, const std::string& device)
    : state_(std::make_shared<State>(limit_bytes, device)) {}
MemoryPool::~MemoryPool() = default;

BlockPtr MemoryPool::allocate(int64_t bytes) {
  if (bytes == 0) return std::make_shared<Block>(nullptr, 0, nullptr);
  const int64_t size = rounded(bytes);
  void* data = nullptr;
  {
    const std::lock_guard<std::mutex> guard(state_->lock);
    auto& stats = state_->stats;
    if (state_->limit_bytes >= 0 && size > state_->limit_bytes - stats.live_bytes) {
      throw Error(Phase::kRun, concat("out of memory", state_->where, ": ", bytes, " bytes asked for, ",
                                      stats.live_bytes, " of ", state_->limit_bytes, " in use"))
          .hint("raise MOAI_DEVICE_MEMORY, or use a smaller batch");
    }
    data = state_->find_cached(size);
    if (data == nullptr) {
      if (state_->limit_bytes >= 0 && size > state_->limit_bytes - stats.reserved_bytes) {
        state_->drop_cached();
      }
      data = take(size);
      if (data == nullptr) {
        state_->drop_cached();
        data = take(size);
      }
      if (data != nullptr) stats.reserved_bytes += size;
    }
    if (data != nullptr) {
      stats.live_bytes += size;
      stats.peak_bytes = std::max(stats.peak_bytes, stats.live_bytes);
    }
  }
  if (data == nullptr) {
    throw Error(Phase::kRun,
                concat("out of memory", state_->where, ": the machine has no room for ", bytes, " bytes"))
        .hint("use a smaller batch or model");
  }
  return std::make_shared<Block>(data, bytes, [state = state_, data, size] { state->returned(data, size); });
}

void MemoryPool::trim() {
  const std::lock_guard<std::mutex> guard(state_->lock);
  state_->drop_cached();
}

MemoryStats MemoryPool::stats() const {
  const std::lock_guard<std::mutex> guard(state_->lock);
  return state_->stats;
}

void MemoryPool::reset_peak() {
  const std::lock_guard<std::mutex> guard(state_->lock);
  state_->stats.peak_bytes = state_->stats.live_bytes;
}

}  // namespace moai::runtime
