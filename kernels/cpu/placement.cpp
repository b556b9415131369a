#include "kernels/cpu/placement.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <atomic>
#include <mutex>
#include <unordered_set>

#include "kernels/cpu/device.h"

namespace moai::cpu {

namespace {

struct Place {
  void* data;
  size_t bytes;
};

struct ThreadPlaces {
  bool active = false;
  std::vector<Place> places;
  int64_t scratch_bytes = 0;  // asked for by the op that runs
};

thread_local ThreadPlaces places;
std::atomic<int64_t> scratch_peak{0};

// Places that are handed out. Some callers (oneDNN's tensors) drop the DataPtr's deleter and free by
// the allocator's raw one, so both are the same function, which knows a place by its address.
struct Outstanding {
  std::mutex lock;
  std::unordered_set<const void*> places;
};

Outstanding& outstanding() {
  static auto* one = new Outstanding;
  return *one;
}

c10::DeleterFnPtr real_deleter = nullptr;

void give_back(void* data) {
  {
    const std::lock_guard<std::mutex> guard(outstanding().lock);
    if (outstanding().places.erase(data) > 0) return;
  }
  real_deleter(data);
}

class PlacingAllocator final : public c10::Allocator {
 public:
  explicit PlacingAllocator(c10::Allocator* real) : real_(real) {}

  c10::DataPtr allocate(size_t bytes) override {
    if (!places.active) return real_->allocate(bytes);
    for (auto& place : places.places) {
      if (place.bytes != bytes || place.data == nullptr) continue;
      void* data = place.data;
      place.data = nullptr;
      {
        const std::lock_guard<std::mutex> guard(outstanding().lock);
        outstanding().places.insert(data);
      }
      return {data, data, &give_back, c10::Device(c10::DeviceType::CPU)};
    }
    places.scratch_bytes += static_cast<int64_t>(bytes);
    if (places.scratch_bytes > scratch_peak.load(std::memory_order_relaxed))
      scratch_peak.store(places.scratch_bytes);
    return real_->allocate(bytes);
  }
  c10::DeleterFnPtr raw_deleter() const override { return &give_back; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    real_->copy_data(to, from, bytes);
  }

 private:
  c10::Allocator* real_;
};

}  // namespace

void install_placing_allocator() {
  static std::once_flag once;
  std::call_once(once, [] {
    real_deleter = c10::GetAllocator(c10::DeviceType::CPU)->raw_deleter();
    // Leaked: tensors outlive static destruction.
    c10::SetAllocator(c10::DeviceType::CPU, new PlacingAllocator(c10::GetAllocator(c10::DeviceType::CPU)),
                      255);
    c10::SetCPUAllocator(c10::GetAllocator(c10::DeviceType::CPU), 255);
  });
}

PlacementScope::PlacementScope() {
  places.active = true;
  places.places.clear();
  places.scratch_bytes = 0;
}

PlacementScope::~PlacementScope() { places.active = false; }

void PlacementScope::place(void* data, size_t bytes) {
  if (bytes > 0) places.places.push_back({data, bytes});
}

int64_t scratch_peak_bytes() { return scratch_peak.load(); }

}  // namespace moai::cpu
