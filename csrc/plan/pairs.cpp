#include "plan/pairs.h"

#include <algorithm>

namespace moai::plan {

namespace {

// Devices of a stage.
constexpr int32_t kThreeAxesFrom = 32;

constexpr uint8_t kData = role_bit(Role::kBatch);
constexpr uint8_t kInSample = role_bit(Role::kSequence) | role_bit(Role::kExpert) | role_bit(Role::kFeature);

Pair pair_of(int32_t stages, std::vector<int32_t> sizes, std::vector<uint8_t> splits) {
  Pair pair;
  pair.stages = stages;
  pair.sizes = std::move(sizes);
  pair.splits = std::move(splits);
  return pair;
}

// How many devices the innermost axis may have: those of a host, or all where there is one level.
int64_t most_inner(const Cluster& cluster) {
  const auto last = static_cast<int32_t>(cluster.levels.size()) - 1;
  return last > 0 ? cluster.devices_in(last - 1) : cluster.device_count();
}

}  // namespace

bool Pair::has_all() const {
  return std::all_of(splits.begin(), splits.end(), [](uint8_t s) { return s == Axis::kAnyRole; });
}

std::vector<Pair> pairs_of(const Cluster& cluster, int32_t stages, bool by_role) {
  const int32_t devices = cluster.device_count() / stages;
  if (devices == 1) return {pair_of(stages, {}, {})};
  std::vector<Pair> pairs;
  if (by_role) {
    pairs = {pair_of(stages, {devices}, {kData}), pair_of(stages, {devices}, {kInSample})};
  } else {
    pairs = {pair_of(stages, {devices}, {Axis::kAnyRole})};
  }
  const int64_t host = most_inner(cluster);
  for (int32_t inner = 2; inner <= host && inner < devices; ++inner) {
    if (host % inner != 0 || devices % inner != 0) continue;
    const bool any = stages == 1 && !by_role;
    pairs.push_back(pair_of(stages, {devices / inner, inner},
                            {any ? Axis::kAnyRole : kData, any ? Axis::kAnyRole : kInSample}));
  }
  return pairs;
}

Pair sending_rows(Pair pair, double capacity) {
  pair.capacity = capacity;
  for (auto& splits : pair.splits) {
    if ((splits & role_bit(Role::kExpert)) != 0) splits |= kData;
  }
  return pair;
}

std::vector<Pair> three_axes(const Cluster& cluster, int32_t stages) {
  std::vector<Pair> pairs;
  const int32_t devices = cluster.device_count() / stages;
  if (devices < kThreeAxesFrom) return pairs;
  const int64_t host = most_inner(cluster);
  for (int32_t inner = 2; inner <= host; inner *= 2) {
    for (int32_t middle = 2; middle <= host && int64_t{2} * middle * inner <= devices; middle *= 2) {
      if (host % inner != 0 || devices % (middle * inner) != 0) continue;
      pairs.push_back(pair_of(stages, {devices / middle / inner, middle, inner},
                              {kData, role_bit(Role::kSequence) | role_bit(Role::kExpert),
                               role_bit(Role::kSequence) | role_bit(Role::kFeature)}));
    }
  }
  return pairs;
}

std::vector<int32_t> turns_worth_a_try(int64_t batch) {
  std::vector<int32_t> all{1};
  for (int64_t turns = 2; turns <= std::min<int64_t>(batch, 1 << 20); ++turns) {
    if (batch % turns == 0 && 2 * turns >= 3 * all.back()) all.push_back(static_cast<int32_t>(turns));
  }
  return all;
}

}  // namespace moai::plan
