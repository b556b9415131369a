#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace moai::cpu {

// Note [Where a result goes]
// ATen's functional kernels allocate what they return. On the executor's thread the CPU allocator
// is ours: while an op runs, the first request for exactly the bytes of a result is answered with
// the memory that the program gave that result, so that no op needs an `out=` form and nothing
// is copied. Other requests are scratch and are counted. A kernel that does not fit this scheme
// (it returns a view, or a buffer of another size) is noticed afterwards and its result is taken
// from where it lies.

// Wraps torch's CPU allocator; other threads see no difference but a thread-local load. Called
// once, on the first executor's thread.
void install_placing_allocator();

// For the life of this object, on this thread.
class PlacementScope {
 public:
  PlacementScope();
  ~PlacementScope();
  void place(void* data, size_t bytes);
};

}  // namespace moai::cpu
