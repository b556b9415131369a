#include "runtime/memory.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <vector>

#include "ir/bytes_text.h"
#include "ir/error.h"

namespace moai::runtime {

namespace {

constexpr int64_t kLine = 64;
constexpr int64_t kPage = 4096;
constexpr int64_t kHugePage = int64_t{2} << 20;
// From here on a block is mapped for itself and can be given back to the system.
constexpr int64_t kMapped = int64_t{1} << 20;
// Beyond any machine's address space, and sums with it do not overflow.
constexpr int64_t kTooMuch = int64_t{1} << 62;

// Up to a thirty-second more than asked for, so that blocks of about one size serve each other, and what is
// counted is close to what is used.
int64_t rounded(int64_t bytes) {
  if (bytes >= kTooMuch) return kTooMuch;
  int64_t unit = bytes >= kMapped ? kPage : kLine;
  while (unit < bytes / 64) unit *= 2;
  return std::max(kLine, (bytes + unit - 1) / unit * unit);
}

}  // namespace

struct MemoryPool::State {
  mutable std::mutex lock;
  const int64_t limit_bytes;
  const std::string where;  // " on cpu:1", or nothing
  const std::shared_ptr<MemorySource> source;
  MemoryStats stats;
  std::map<int64_t, std::vector<void*>> cached;  // by rounded size

  State(int64_t limit, const std::string& device, std::shared_ptr<MemorySource> source_in)
      : limit_bytes(limit), where(device.empty() ? "" : " on " + device), source(std::move(source_in)) {}
  ~State() { drop_cached(); }

  void drop_cached() {
    for (auto& [bytes, list] : cached) {
      for (void* data : list) source->give_back(data, bytes);
      stats.reserved_bytes -= bytes * static_cast<int64_t>(list.size());
    }
    cached.clear();
  }

  void check_room(int64_t asked, int64_t size) const {
    const int64_t free = limit_bytes - stats.live_bytes;
    if (limit_bytes < 0 || size <= free) return;
    OutOfMemory error(Phase::kRun,
                      concat("out of memory", where, ": ", bytes_text(static_cast<double>(asked)),
                             " asked for, ", bytes_text(static_cast<double>(free)), " free of ",
                             bytes_text(static_cast<double>(limit_bytes)), " (MOAI_DEVICE_MEMORY)"));
    error.hint(
        "would work: a smaller batch, activation checkpointing, `del` of what is held in vain, or more "
        "memory");
    throw error;
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

MemoryPool::MemoryPool(int64_t limit_bytes, const std::string& device, std::shared_ptr<MemorySource> source)
    : state_(std::make_shared<State>(limit_bytes, device, std::move(source))) {}
MemoryPool::~MemoryPool() = default;

BlockPtr MemoryPool::allocate(int64_t bytes) {
  if (bytes == 0) return std::make_shared<Block>(nullptr, 0, nullptr);
  const int64_t size = rounded(bytes);
  void* data = nullptr;
  {
    const std::lock_guard<std::mutex> guard(state_->lock);
    auto& stats = state_->stats;
    state_->check_room(bytes, size);
    data = state_->find_cached(size);
    if (data == nullptr) {
      if (state_->limit_bytes >= 0 && size > state_->limit_bytes - stats.reserved_bytes) {
        state_->drop_cached();
      }
      data = state_->source->take(size);
      if (data == nullptr) {
        state_->drop_cached();
        data = state_->source->take(size);
      }
      if (data != nullptr) stats.reserved_bytes += size;
    }
    if (data != nullptr) {
      stats.live_bytes += size;
      stats.peak_bytes = std::max(stats.peak_bytes, stats.live_bytes);
    }
  }
  if (data == nullptr) {
    OutOfMemory error(Phase::kRun, concat("out of memory", state_->where, ": the machine has no room for ",
                                          bytes_text(static_cast<double>(bytes))));
    error.hint("would work: a smaller batch or model");
    throw error;
  }
  return std::make_shared<Block>(
      data, bytes, [state = state_, data, size] { state->returned(data, size); }, source());
}

int64_t MemoryPool::size_of(int64_t bytes) { return bytes == 0 ? 0 : rounded(bytes); }

std::shared_ptr<MemorySource> MemoryPool::source() const {
  return state_->source->is_host() ? nullptr : state_->source;
}

bool MemoryPool::has_limit() const { return state_->limit_bytes >= 0; }

bool MemoryPool::has_room(int64_t bytes, double left_over) const {
  const std::lock_guard<std::mutex> guard(state_->lock);
  if (state_->limit_bytes < 0) return true;
  const auto usable = static_cast<int64_t>(static_cast<double>(state_->limit_bytes) * (1 - left_over));
  return bytes <= usable - state_->stats.live_bytes;
}

void MemoryPool::check_room(int64_t bytes) const {
  const std::lock_guard<std::mutex> guard(state_->lock);
  state_->check_room(bytes, bytes);
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
