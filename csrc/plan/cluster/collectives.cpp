#include "plan/cluster/collectives.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <numeric>

#include "ir/error.h"

namespace moai::plan {

namespace {

// Note [Time of a collective]
//
// An algorithm takes `steps` messages one after the other, of latencies that add up to L, and sends over
// the busiest link bytes that take W at its rate. Data go in chunks: with more of them each step waits for
// less, but starts more often. The best number of chunks gives
//
//   start + L + W + 2 sqrt(kPipelining L W)
//
// (kPipelining = 1 where nothing overlaps a chunk's start, 0 where all does). The root is what makes
// buffers of some megabytes slower than latency plus bandwidth. L and W of the algorithms for n members:
//
//   ring           n-1 steps and (n-1)/n of the bytes over each link, twice that for all-reduce. A ring
//                  enters and leaves each unit once; there are as many rings as members in a unit, each with
//                  its own way out, so that all links of a unit carry the same.
//   tree           pairs of binary trees, each for half of the bytes: the depth, twice for all-reduce
//   switch         each member sends all and receives all, once; a reduce-scatter keeps its part of that
//   hierarchical   reduce-scatter inside, the rest across on one part each, all-gather inside, each of
//                  them by its own cheapest algorithm, one after the other
//   direct         all-to-all: a message to each other member, 1/n^2 of the bytes each
//
// Hence an all-reduce never takes less than its reduce-scatter, nor more bytes less than fewer.
//
// After R. Thakur, R. Rabenseifner, W. Gropp: Optimization of collective communication operations in
// MPICH (2005), and P. Sanders, J. Speck, J. Träff: Two-tree algorithms for full bandwidth broadcast,
// reduction and scan (2009). Constants are fitted to measurements: docs/clusters.md.
constexpr double kPipelining = 0.2;
// Of a ring's rate. NCCL's own tuner counts on no more.
constexpr double kTreeEfficiency = 0.6;
// Of the switch: up and down.
constexpr double kSwitchSteps = 6;

constexpr double kNever = std::numeric_limits<double>::infinity();

// The note's formula, without the start. Infinite where W is.
double chunked(double latency_s, double wire_s) {
  return latency_s + wire_s + 2 * std::sqrt(kPipelining * latency_s * wire_s);
}

int32_t log2_up(int64_t n) {
  int32_t log = 0;
  while ((int64_t{1} << log) < n) ++log;
  return log;
}

// An all-reduce is a reduce-scatter and an all-gather.
double phases(Collective collective) { return collective == Collective::kAllReduce ? 2 : 1; }

constexpr Algorithm kAlgorithms[] = {Algorithm::kNone, Algorithm::kDirect,       Algorithm::kRing,
                                     Algorithm::kTree, Algorithm::kHierarchical, Algorithm::kSwitch};

// A group on a cluster's links.
class Model {
 public:
  Model(const Cluster& cluster, const Group& group, double bytes)
      : cluster_(cluster), group_(group), bytes_(bytes) {
    MOAI_ASSERT(bytes >= 0, "bytes ", bytes);
    MOAI_ASSERT(group.sizes.size() <= cluster.levels.size(), group.sizes.size(), " levels");
    for (const int32_t size : group.sizes) MOAI_ASSERT(size >= 1, "size ", size);
    for (const int32_t sharing : group.sharing) MOAI_ASSERT(sharing >= 1, "sharing ", sharing);
  }

  double seconds(Algorithm algorithm, Collective collective) const {
    const int32_t levels = static_cast<int32_t>(group_.sizes.size());
    if (group_.members() == 1) return algorithm == Algorithm::kNone ? 0 : kNever;
    return start_s() + by(algorithm, collective, 0, levels, bytes_);
  }

 private:
  int32_t size(int32_t level) const { return group_.sizes[level]; }

  // Members in one unit of the levels from `first` on that `level` joins.
  double inside(int32_t first, int32_t level) const {
    double members = 1;
    for (int32_t l = first; l < level; ++l) members *= size(l);
    return members;
  }

  // Bytes/s that one member of a level sends, all members of the group there being its peers.
  double rate(int32_t level) const {
    const Level& link = cluster_.levels[level];
    double rate = link.bytes_per_s;
    if (link.pair_bytes_per_s > 0) rate = std::min(rate, link.pair_bytes_per_s * (size(level) - 1));
    return rate / sharing(level);
  }

  double sharing(int32_t level) const {
    return level < static_cast<int32_t>(group_.sharing.size()) ? group_.sharing[level] : 1;
  }

  double latency(int32_t level) const { return cluster_.levels[level].latency_s; }

  double start_s() const {
    double start = 0;
    for (size_t l = 0; l < group_.sizes.size(); ++l) {
      if (group_.sizes[l] > 1) start = std::max(start, cluster_.levels[l].start_s);
    }
    return start;
  }

  // Seconds on the levels from `first` up to `end`, of a collective on `bytes`.
  double by(Algorithm algorithm, Collective collective, int32_t first, int32_t end, double bytes) const {
    switch (algorithm) {
      case Algorithm::kNone: return kNever;
      case Algorithm::kDirect: return direct(collective, first, end, bytes);
      case Algorithm::kRing: return ring(collective, first, end, bytes);
      case Algorithm::kTree: return tree(collective, first, end, bytes);
      case Algorithm::kHierarchical: return hierarchical(collective, first, end, bytes);
      case Algorithm::kSwitch: return in_switch(collective, first, end, bytes);
    }
    return kNever;
  }

  double cheapest(Collective collective, int32_t first, int32_t end, double bytes) const {
    if (inside(first, end) == 1) return 0;
    double least = kNever;
    for (const Algorithm algorithm : kAlgorithms)
      least = std::min(least, by(algorithm, collective, first, end, bytes));
    return least;
  }

  // Bytes/s of a channel-per-member ring, as one member sees it: a unit sends out by all of its members'
  // links together.
  double ring_rate(int32_t first, int32_t end) const {
    double rate = kNever;
    for (int32_t l = first; l < end; ++l) {
      if (size(l) > 1) rate = std::min(rate, this->rate(l) * inside(first, l));
    }
    return rate;
  }

  double ring(Collective collective, int32_t first, int32_t end, double bytes) const {
    if (collective == Collective::kAllToAll || collective == Collective::kSendReceive) return kNever;
    const double members = inside(first, end);
    double latency = 0;  // of once around, less one step
    for (int32_t l = first; l < end; ++l) {
      latency += (size(l) - 1) * members / inside(first, l + 1) * this->latency(l);
    }
    const double part = collective == Collective::kBroadcast ? 1 : (members - 1) / members;
    return phases(collective) * chunked(latency, part * bytes / ring_rate(first, end));
  }

  double tree(Collective collective, int32_t first, int32_t end, double bytes) const {
    if (collective == Collective::kAllToAll || collective == Collective::kSendReceive) return kNever;
    double latency = 0;
    for (int32_t l = first; l < end; ++l) latency += log2_up(size(l)) * this->latency(l);
    return phases(collective) * chunked(latency, bytes / (ring_rate(first, end) * kTreeEfficiency));
  }

  double in_switch(Collective collective, int32_t first, int32_t end, double bytes) const {
    if (collective != Collective::kAllReduce && collective != Collective::kReduceScatter) return kNever;
    const int32_t level = only_level(first, end);
    if (level < 0) return kNever;
    const double rate = cluster_.levels[level].switch_reduce_bytes_per_s / sharing(level);
    return rate > 0 ? chunked(kSwitchSteps * latency(level), bytes / rate) : kNever;
  }

  // The level on which all members differ; -1 if there are several.
  int32_t only_level(int32_t first, int32_t end) const {
    int32_t only = -1;
    for (int32_t l = first; l < end; ++l) {
      if (size(l) == 1) continue;
      if (only >= 0) return -1;
      only = l;
    }
    return only;
  }

  double hierarchical(Collective collective, int32_t first, int32_t end, double bytes) const {
    int32_t inner = first;
    while (inner < end && size(inner) == 1) ++inner;
    if (inner == end || only_level(inner, end) == inner) return kNever;
    const int32_t split = inner + 1;
    const double across = cheapest(collective, split, end, bytes / size(inner));
    const double scatter = cheapest(Collective::kReduceScatter, first, split, bytes);
    const double gather = cheapest(Collective::kAllGather, first, split, bytes);
    switch (collective) {
      // A switch inside does both in one go.
      case Collective::kAllReduce:
        return across + std::min(scatter + gather, in_switch(collective, first, split, bytes));
      case Collective::kReduceScatter: return across + scatter;
      case Collective::kAllGather: return across + gather;
      // The root hands out parts inside, as in a ring.
      case Collective::kBroadcast: return across + 2 * gather;
      default: return kNever;
    }
  }

  double direct(Collective collective, int32_t first, int32_t end, double bytes) const {
    if (collective == Collective::kSendReceive) return message(first, end, bytes);
    if (collective != Collective::kAllToAll) return kNever;
    const double members = inside(first, end);
    double latency = 0;
    double wire = 0;  // all levels work at the same time
    for (int32_t l = first; l < end; ++l) {
      if (size(l) == 1) continue;
      const double peers = inside(first, l + 1) - inside(first, l);
      latency += (size(l) - 1) * this->latency(l);
      wire = std::max(wire, peers * bytes / (members * members) / rate(l));
    }
    return chunked(latency, wire);
  }

  // One message between members that are as far from each other as the group reaches.
  double message(int32_t first, int32_t end, double bytes) const {
    int32_t level = end - 1;
    while (level > first && size(level) == 1) --level;
    const Level& link = cluster_.levels[level];
    const double rate = link.pair_bytes_per_s > 0 ? link.pair_bytes_per_s : link.bytes_per_s;
    return chunked(link.latency_s, bytes * sharing(level) / rate);
  }

  const Cluster& cluster_;
  const Group& group_;
  double bytes_;
};

}  // namespace

const char* collective_name(Collective collective) {
  switch (collective) {
    case Collective::kAllReduce: return "all-reduce";
    case Collective::kAllGather: return "all-gather";
    case Collective::kReduceScatter: return "reduce-scatter";
    case Collective::kAllToAll: return "all-to-all";
    case Collective::kBroadcast: return "broadcast";
    case Collective::kSendReceive: return "send-receive";
  }
  return "?";
}

const char* algorithm_name(Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::kNone: return "none";
    case Algorithm::kDirect: return "direct";
    case Algorithm::kRing: return "ring";
    case Algorithm::kTree: return "tree";
    case Algorithm::kHierarchical: return "hierarchical";
    case Algorithm::kSwitch: return "switch";
  }
  return "?";
}

int64_t Group::members() const {
  return std::accumulate(sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<>());
}

Group axis_group(const Cluster& cluster, int64_t stride, int64_t size) {
  MOAI_ASSERT(stride >= 1 && size >= 1, "stride ", stride, ", size ", size);
  Group group;
  int64_t left = size;
  int64_t below = 1;  // devices in one unit of the level below
  for (const Level& level : cluster.levels) {
    const int64_t unit = below * level.size;
    const bool is_outermost = &level == &cluster.levels.back();
    const int64_t fit = is_outermost ? left : std::max<int64_t>(1, unit / std::max(below, stride));
    const int64_t members = std::min(left, fit);
    group.sizes.push_back(static_cast<int32_t>(members));
    left = (left + members - 1) / members;
    below = unit;
  }
  return group;
}

double seconds_by(Algorithm algorithm, const Cluster& cluster, Collective collective, const Group& group,
                  double bytes) {
  return Model(cluster, group, bytes).seconds(algorithm, collective);
}

Estimate estimate(const Cluster& cluster, Collective collective, const Group& group, double bytes) {
  const Model model(cluster, group, bytes);
  Estimate best{kNever, Algorithm::kNone};
  for (const Algorithm algorithm : kAlgorithms) {
    const double seconds = model.seconds(algorithm, collective);
    if (seconds < best.seconds) best = {seconds, algorithm};
  }
  return best;
}

double seconds(const Cluster& cluster, Collective collective, const Group& group, double bytes) {
  return estimate(cluster, collective, group, bytes).seconds;
}

}  // namespace moai::plan
