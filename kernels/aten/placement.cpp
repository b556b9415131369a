#include "kernels/aten/placement.h"

#include <atomic>
#include <mutex>
#include <unordered_set>
#include <vector>

namespace moai::aten {

namespace {

struct Place {
  void* data;
  size_t bytes;
};

struct ThreadPlaces {
  bool active = false;
  c10::DeviceType device = c10::DeviceType::CPU;
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

}  // namespace

void* claim_place(c10::DeviceType device, size_t bytes) {
  if (!places.active || places.device != device) return nullptr;
  for (auto& place : places.places) {
    if (place.bytes != bytes || place.data == nullptr) continue;
    void* data = place.data;
    place.data = nullptr;
    const std::lock_guard<std::mutex> guard(outstanding().lock);
    outstanding().places.insert(data);
    return data;
  }
  places.scratch_bytes += static_cast<int64_t>(bytes);
  if (places.scratch_bytes > scratch_peak.load(std::memory_order_relaxed))
    scratch_peak.store(places.scratch_bytes);
  return nullptr;
}

bool return_place(void* data) {
  const std::lock_guard<std::mutex> guard(outstanding().lock);
  return outstanding().places.erase(data) > 0;
}

PlacementScope::PlacementScope(c10::DeviceType device) {
  places.active = true;
  places.device = device;
  places.places.clear();
  places.scratch_bytes = 0;
}

PlacementScope::~PlacementScope() { places.active = false; }

void PlacementScope::place(void* data, size_t bytes) {
  if (bytes > 0) places.places.push_back({data, bytes});
}

int64_t scratch_peak_bytes() { return scratch_peak.load(); }

}  // namespace moai::aten
