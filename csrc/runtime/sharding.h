#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "ir/type.h"
#include "runtime/region.h"

namespace moai::runtime {

// How the parts that several devices have make one value in memory. A part is a box: of each digit of the
// value's byte offsets, read in some mixed radix, a range. Two shardings are equal if they put the same bytes
// on the same devices, however they came about.
class Sharding {
 public:
  struct Range {
    int64_t size = 1;  // of the whole, in this digit
    int64_t start = 0;
    int64_t length = 1;
    bool operator==(const Range& o) const { return size == o.size && start == o.start && length == o.length; }
  };
  using Digits = std::vector<Range>;  // outermost first

  Sharding() = default;
  // By device and dim of a dense value, for each atom of the dim, outermost first; `holds`: by device,
  // whether it has a part; all do where it is empty.
  Sharding(const ir::Type& whole, const std::vector<std::vector<Digits>>& by_device,
           const std::vector<bool>& holds = {});
  // All of it, on every device.
  static Sharding replicated(int64_t bytes, size_t devices);

  size_t devices() const { return parts_.size(); }
  int64_t bytes() const { return bytes_; }
  int64_t part_bytes(size_t device) const;
  // False of a device that the value was not given to; one whose part came out empty does.
  bool holds(size_t device) const { return !parts_[device].empty(); }
  bool has_all(size_t device) const { return part_bytes(device) == bytes_; }
  // Whether an earlier device has the same part.
  bool is_repeated(size_t device) const;

  // Copies a device's part out of the whole, and back to its place there. Parts are dense, in the order that
  // the whole has. Returns having touched part_bytes(device) bytes.
  void cut(size_t device, const void* whole, void* part) const;
  void paste(size_t device, const void* part, void* whole) const;
  // Of `wanted` alone; returns how many bytes of it the part has.
  int64_t paste(size_t device, const void* part, void* whole, const Region& wanted) const;

  // Equal for equal shardings, on every host.
  uint64_t hash() const;
  bool operator==(const Sharding& o) const { return bytes_ == o.bytes_ && parts_ == o.parts_; }
  bool operator!=(const Sharding& o) const { return !(*this == o); }

 private:
  template <typename Move>
  void each_run(size_t device, const Move& move) const;

  int64_t bytes_ = 0;
  std::vector<Digits> parts_;  // by device; the innermost digit counts bytes; no digits: nothing
};
using ShardingPtr = std::shared_ptr<const Sharding>;

}  // namespace moai::runtime
