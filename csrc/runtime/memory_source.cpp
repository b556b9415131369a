#include "runtime/memory_source.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

namespace moai::runtime {

namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;
// From here on a block is mapped for itself and can be given back to the system.
constexpr int64_t kMapped = int64_t{1} << 20;

class HostMemory final : public MemorySource {
 public:
  void* take(int64_t bytes) override {
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

  void give_back(void* data, int64_t bytes) override {
    if (bytes < kMapped) {
      std::free(data);
    } else {
      munmap(data, static_cast<size_t>(bytes));
    }
  }

  bool is_host() const override { return true; }
  void to_host(void* host, const void* device, int64_t bytes) override { copy(host, device, bytes); }
  void to_device(void* device, const void* host, int64_t bytes) override { copy(device, host, bytes); }

 private:
  static void copy(void* to, const void* from, int64_t bytes) {
    if (bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
  }
};

}  // namespace

std::shared_ptr<MemorySource> host_memory() {
  static const auto one = std::make_shared<HostMemory>();
  return one;
}

}  // namespace moai::runtime
