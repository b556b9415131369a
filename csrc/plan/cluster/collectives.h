#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "plan/cluster/cluster.h"

namespace moai::plan {

enum class Collective { kAllReduce, kAllGather, kReduceScatter, kAllToAll, kBroadcast, kSendReceive };

// How a collective is carried out.
enum class Algorithm {
  kNone,          // a group of one: nothing to do
  kDirect,        // every member to every other one, or one message
  kRing,          // one ring through all members, on as many channels as a unit has members
  kTree,          // a pair of binary trees (all-reduce, broadcast)
  kHierarchical,  // reduce-scatter inside, the collective across on a part each, all-gather inside
  kSwitch,        // members of one unit send to a switch that adds (all-reduce, reduce-scatter)
};

const char* collective_name(Collective collective);
const char* algorithm_name(Algorithm algorithm);

// The devices that take part in one collective: those of a mesh axis, say. All groups of an axis run
// at the same time and look alike, so a group is described by its shape.
struct Group {
  // By level of the cluster: of how many units of the level below there are members; 1 where of one.
  // Shorter than the levels: 1 from there on. The product is the number of members.
  std::vector<int32_t> sizes;
  // By level: how many groups that run at the same time send through the same device's link there. 1 (or
  // shorter) where a device's link carries one group: so for the groups of one axis, which do not overlap.
  std::vector<int32_t> sharing;

  int64_t members() const;
};

// The group of `size` devices, `stride` apart in the cluster's numbering: those of a mesh axis whose
// inner axes have `stride` devices together. Where sizes do not divide, units count as full.
Group axis_group(const Cluster& cluster, int64_t stride, int64_t size);

struct Estimate {
  double seconds;
  Algorithm algorithm;
};

// The time of a collective and the algorithm that takes the least.
//
// `bytes` is the size of the whole (unsharded) buffer of one group: what an all-gather ends with and a
// reduce-scatter starts with, the sum over members of what an all-to-all moves and keeps, one message
// of a send. Never less for more bytes. See Note [Time of a collective] in collectives.cpp. Costs well
// below a microsecond. Trips MOAI_ASSERT on negative bytes or sizes below one.
Estimate estimate(const Cluster& cluster, Collective collective, const Group& group, double bytes);
double seconds(const Cluster& cluster, Collective collective, const Group& group, double bytes);

// The same by one algorithm; infinite where it does not apply.
double seconds_by(Algorithm algorithm, const Cluster& cluster, Collective collective, const Group& group,
                  double bytes);

}  // namespace moai::plan
