#pragma once

#include <c10/core/DeviceType.h>

#include <cstddef>
#include <cstdint>

namespace moai::aten {

// Note [Where a result goes]
// ATen's functional kernels allocate what they return. On a worker's thread the device's allocator
// is ours: while an op runs, the first request for exactly the bytes of a result is answered with
// the memory that the program gave that result, so that no op needs an `out=` form and nothing
// is copied. Other requests are scratch and are counted. A kernel that does not fit this scheme
// (it returns a view, or a buffer of another size) is noticed afterwards and its result is taken
// from where it lies.

// For the life of this object, on this thread, results of ops on such a device may be placed.
class PlacementScope {
 public:
  explicit PlacementScope(c10::DeviceType device);
  ~PlacementScope();
  PlacementScope(const PlacementScope&) = delete;
  PlacementScope& operator=(const PlacementScope&) = delete;
  void place(void* data, size_t bytes);
};

// For allocators, which ask for each request: the place that answers it; null where it is scratch, which is
// counted, or where no scope is on.
void* claim_place(c10::DeviceType device, size_t bytes);
// And for each memory that is freed: whether it was a place. From any thread.
bool return_place(void* data);

// Most bytes that one op asked for beyond its results.
int64_t scratch_peak_bytes();

}  // namespace moai::aten
