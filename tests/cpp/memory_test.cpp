#include "runtime/memory.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "catch.h"
#include "ir/error.h"
#include "threads.h"

namespace moai::runtime {
namespace {

constexpr int64_t kKiB = 1024;
constexpr int64_t kMiB = 1024 * kKiB;

void write(const BlockPtr& block, int value) {
  std::memset(block->data, value, static_cast<size_t>(block->bytes));
}

bool holds(const BlockPtr& block, int value) {
  const auto* data = static_cast<const uint8_t*>(block->data);
  return std::all_of(data, data + block->bytes, [&](uint8_t byte) { return byte == value; });
}

TEST_CASE("a_block_is_aligned_counted_and_used_again") {
  const struct {
    int64_t bytes, reserved, alignment;
  } rows[] = {
      {1, 64, 64},
      {64, 64, 64},
      {65, 128, 64},
      {100 * kKiB, 100 * kKiB, 64},
      {100 * kKiB + 1, 102 * kKiB, 64},
      {kMiB, kMiB, 2 * kMiB},
      {2 * kMiB, 2 * kMiB, 2 * kMiB},
      {2 * kMiB + 1, 2 * kMiB + 32 * kKiB, 2 * kMiB},
      {5 * kMiB, 5 * kMiB, 2 * kMiB},
  };
  for (const auto& row : rows) {
    INFO(row.bytes << " bytes");
    MemoryPool pool;
    BlockPtr block = pool.allocate(row.bytes);
    CHECK(block->bytes == row.bytes);
    CHECK(reinterpret_cast<uintptr_t>(block->data) % static_cast<uintptr_t>(row.alignment) == 0);
    write(block, 7);
    CHECK(pool.stats().live_bytes == row.reserved);
    CHECK(pool.stats().reserved_bytes == row.reserved);

    const void* data = block->data;
    block = nullptr;
    CHECK(pool.stats().live_bytes == 0);
    CHECK(pool.stats().reserved_bytes == row.reserved);
    block = pool.allocate(row.bytes);
    CHECK(block->data == data);

    pool.trim();  // takes nothing from who holds it
    CHECK(pool.stats().reserved_bytes == row.reserved);
    write(block, 8);
    block = nullptr;
    pool.trim();
    CHECK(pool.stats().reserved_bytes == 0);
  }
}

TEST_CASE("the_peak_is_the_most_that_was_live_since_it_was_reset") {
  MemoryPool pool;
  const BlockPtr kept = pool.allocate(64);
  pool.allocate(256);
  pool.allocate(128);
  CHECK(pool.stats().peak_bytes == 64 + 256);
  pool.reset_peak();
  CHECK(pool.stats().peak_bytes == 64);
  pool.allocate(128);
  CHECK(pool.stats().peak_bytes == 64 + 128);
}

TEST_CASE("what_is_kept_for_later_counts_within_the_limit") {
  MemoryPool pool(1024);
  pool.allocate(512);
  pool.allocate(256);
  CHECK(pool.stats().reserved_bytes == 768);
  const BlockPtr block = pool.allocate(1024);
  CHECK(pool.stats().reserved_bytes == 1024);
}

TEST_CASE("zero_bytes_are_no_memory") {
  MemoryPool pool(0);
  const BlockPtr block = pool.allocate(0);
  CHECK(block->data == nullptr);
  CHECK(block->bytes == 0);
  CHECK(pool.stats().reserved_bytes == 0);
}

TEST_CASE("a_block_may_outlive_its_pool") {
  BlockPtr block;
  {
    MemoryPool pool;
    block = pool.allocate(100);
  }
  write(block, 1);
  CHECK(holds(block, 1));
}

TEST_CASE("out_of_memory_says_what_was_asked_for_and_what_would_work") {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  const auto limit = [](const char* asked, const char* free) {
    return concat(
        "moai run: out of memory: ", asked, " asked for, ", free,
        " free of 1024 bytes (MOAI_DEVICE_MEMORY)\n  would work: a smaller batch, activation checkpointing, "
        "`del` of what is held in vain, or more memory");
  };
  const auto machine = [](const char* asked) {
    return concat("moai run: out of memory: the machine has no room for ", asked,
                  "\n  would work: a smaller batch or model");
  };
  const struct {
    int64_t limit, live, bytes;
    std::string error;
  } rows[] = {
      {1024, 512, 512, "no error"},
      {1024, 512, 513, limit("513 bytes", "512 bytes")},
      {1024, 0, kMost, limit("8388608.0 TiB", "1024 bytes")},
      {kMost, 64, kMost, machine("8388608.0 TiB")},
      {-1, 64, kMost, machine("8388608.0 TiB")},
      {-1, 64, int64_t{1} << 60, machine("1048576.0 TiB")},
  };
  for (const auto& row : rows) {
    MemoryPool pool(row.limit);
    const BlockPtr live = pool.allocate(row.live);
    CHECK(error_of([&] { pool.allocate(row.bytes); }) == row.error);
    // A refusal costs nothing, and memory that was given back is there again.
    CHECK(pool.stats().live_bytes == row.live);
    CHECK(pool.has_room(512, 0));
    CHECK(pool.has_room(1 << 20, 0.5) == (row.limit != 1024));
    if (row.limit == 1024) CHECK(error_of([&] { pool.allocate(512); }) == "no error");
  }
}

// Every thread writes its blocks, and the next thread reads and frees some of them.
TEST_CASE("blocks_of_many_threads_lie_apart_and_are_counted") {
  constexpr int kThreads = 4;
  MemoryPool pool;
  std::vector<std::vector<std::pair<BlockPtr, int>>> passed_on(kThreads);
  std::atomic<int> wrong{0};
  const auto read_and_free = [&](std::pair<BlockPtr, int>& entry) {
    wrong += !holds(entry.first, entry.second);
    entry.first = nullptr;
  };
  in_threads(kThreads, [&](int t) {
    std::mt19937 random(t);
    std::vector<std::pair<BlockPtr, int>> mine;
    for (int i = 0; i < 400; ++i) {
      const int64_t most = i % 50 == 0 ? 3 * kMiB : 4 * kKiB;
      const int value = static_cast<int>(random() % 256);
      mine.emplace_back(pool.allocate(1 + random() % most), value);
      write(mine.back().first, value);
      const auto at = random() % mine.size();
      if (random() % 3 == 0) std::swap(mine[at], mine.back()), read_and_free(mine.back()), mine.pop_back();
      if (i % 100 == 0) pool.trim();
      const MemoryStats stats = pool.stats();
      wrong += stats.live_bytes > stats.peak_bytes || stats.live_bytes > stats.reserved_bytes;
    }
    passed_on[t] = std::move(mine);
  });
  in_threads(kThreads, [&](int t) {
    for (auto& entry : passed_on[(t + 1) % kThreads]) read_and_free(entry);
  });
  CHECK(wrong == 0);
  CHECK(pool.stats().live_bytes == 0);
  pool.trim();
  CHECK(pool.stats().reserved_bytes == 0);
}

TEST_CASE("many_threads_together_stay_within_the_limit") {
  constexpr int64_t kLimit = 64 * kKiB;
  MemoryPool pool(kLimit);
  std::atomic<int> refused{0};
  in_threads(4, [&](int) {
    std::vector<BlockPtr> mine;
    for (int i = 0; i < 1000; ++i) {
      try {
        mine.push_back(pool.allocate(4 * kKiB));
      } catch (const Error&) {
        ++refused;
        mine.clear();
      }
    }
  });
  CHECK(refused > 0);
  CHECK(pool.stats().peak_bytes == kLimit);
  CHECK(pool.stats().live_bytes == 0);
}

// A device of 64 KiB that the host does not reach.
class SmallSource final : public MemorySource {
 public:
  void* take(int64_t bytes) override {
    if (taken + bytes > 64 * kKiB) return nullptr;
    taken += bytes;
    return host_memory()->take(bytes);
  }
  void give_back(void* data, int64_t bytes) override {
    taken -= bytes;
    host_memory()->give_back(data, bytes);
  }
  bool is_host() const override { return false; }
  void to_host(void*, const void*, int64_t) override {}
  void to_device(void*, const void*, int64_t) override {}

  int64_t taken = 0;
};

TEST_CASE("a_pool_takes_from_its_source_and_its_blocks_know_it") {
  const auto source = std::make_shared<SmallSource>();
  {
    MemoryPool pool(-1, "gpu:0", source);
    CHECK(pool.allocate(1)->source == source);
    BlockPtr half = pool.allocate(32 * kKiB);
    half = nullptr;  // kept, and handed back when there is no room otherwise
    CHECK(pool.allocate(64 * kKiB) != nullptr);
    CHECK_THROWS_AS(pool.allocate(128 * kKiB), OutOfMemory);
    BlockPtr outlives = pool.allocate(kKiB);
    CHECK(source->taken > 0);
    half = std::move(outlives);
  }
  CHECK(source->taken == 0);
  CHECK(MemoryPool().allocate(64)->source == nullptr);
}

}  // namespace
}  // namespace moai::runtime
