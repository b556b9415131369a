#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ir/type.h"
#include "plan/cluster/cluster.h"
#include "plan/cluster/collectives.h"
#include "plan/roles.h"

namespace moai::plan {

// One way in which the devices are divided. The last axis of a mesh is the innermost: its devices are
// neighbours in the cluster's numbering, so the most talkative splits belong there.
constexpr uint8_t role_bit(Role role) { return static_cast<uint8_t>(1U << static_cast<unsigned>(role)); }

struct Axis {
  int32_t size = 1;
  Group group;                // the devices that differ along this axis alone
  uint8_t splits = kAnyRole;  // what forward and backward may split along it: bits by Role

  static constexpr uint8_t kAnyRole = 0xff;
  bool may_split(Role role) const { return (splits & role_bit(role)) != 0; }
};

struct Mesh {
  const Cluster* cluster = nullptr;
  std::vector<Axis> axes;  // outermost first

  // `sizes` multiply to at most the cluster's devices. Trips MOAI_ASSERT on more. `splits`: by axis; empty
  // where each may split whatever is there.
  static Mesh make(const Cluster& cluster, const std::vector<int32_t>& sizes,
                   const std::vector<uint8_t>& splits = {});
  std::vector<int32_t> sizes() const;
  std::string str() const;  // "4 x 8"
};

// Where a value lies, by axis.
struct Split {
  enum class Kind : uint8_t {
    kReplicate,
    kShard,    // by atom `leaf` of dim `dim`, counted in the value's own factors
    kPartial,  // the whole is the sum of the parts
    kReduced,  // the whole is another reduction of the parts (maximum, norm, mean …): nothing passes it
  };
  Kind kind = Kind::kReplicate;
  int16_t dim = 0;
  int16_t leaf = 0;

  bool operator==(const Split& o) const { return kind == o.kind && dim == o.dim && leaf == o.leaf; }
  bool operator!=(const Split& o) const { return !(*this == o); }
  bool operator<(const Split& o) const {
    if (kind != o.kind) return kind < o.kind;
    return dim != o.dim ? dim < o.dim : leaf < o.leaf;
  }
};
using Placement = std::vector<Split>;

// What brings a value from one split along an axis to another: what `convert_seconds` counts is what the
// compiler emits.
enum class Change : uint8_t {
  kNothing,
  kLocal,  // a replica has every part; of a sum, it is one part with zeros for the others
  kAllReduce,
  kAllGather,
  kReduceScatter,
  kAllToAll,
  kImpossible,  // another reduction to a partial sum
};
Change change_of(const Split& from, const Split& to);

// Which share of `size` the largest of `parts` parts has.
double largest_share(int64_t size, int32_t parts);

// Bytes of a value on one device, when `leaf_sizes` (by dim) are the sizes of its factors; of the type the
// dtype alone counts. Uneven parts count as the largest.
double local_bytes(const ir::Type& type, const std::vector<std::vector<int64_t>>& leaf_sizes,
                   const Placement& placement, const Mesh& mesh);

// What brings a value from one placement to another along one axis.
struct AxisMove {
  size_t axis = 0;
  Collective collective = Collective::kAllReduce;
  double bytes = 0;  // of the whole buffer of one group: see `estimate`
  double seconds = 0;
};
// By axis, the cheapest collectives that bring a value from one placement to another. `merged`: as below.
// Trips MOAI_ASSERT where nothing does.
std::vector<AxisMove> convert_moves(const ir::Type& type, const std::vector<std::vector<int64_t>>& leaf_sizes,
                                    const Placement& from, const Placement& to, const Mesh& mesh,
                                    bool merged = false);

// Seconds for bringing a value from one placement to another: by axis, the cheapest collective that does it.
// Infinite where nothing does (another reduction to a partial sum). `merged`: many small values go together,
// as gradients do, so that each pays its bytes at the rate of a full bucket, and no start of its own.
double convert_seconds(const ir::Type& type, const std::vector<std::vector<int64_t>>& leaf_sizes,
                       const Placement& from, const Placement& to, const Mesh& mesh, bool merged = false);

}  // namespace moai::plan
