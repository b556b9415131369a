// Random collectives, for tests of communicators.
#pragma once

#include <algorithm>
#include <random>
#include <utility>
#include <vector>

#include "runtime/communicator.h"

namespace moai::runtime {

// `total` in `count` random parts, of which some are empty.
inline std::vector<int64_t> random_parts(int64_t total, int count, std::mt19937& random) {
  std::vector<int64_t> parts(count);
  for (int64_t i = 0; i < total; ++i) ++parts[random() % count];
  if (count > 1 && random() % 2 == 0) {
    const auto emptied = random() % count;
    parts[(emptied + 1) % count] += std::exchange(parts[emptied], 0);
  }
  return parts;
}

inline Collective random_collective(Collective::Kind kind, ir::DType dtype, int members,
                                    std::mt19937& random) {
  using Kind = Collective::Kind;
  const auto size = [&](int most) { return static_cast<int64_t>(random() % (most + 1)); };
  ir::Dims sizes{1 + size(3), 1 + size(2 * members), 1 + size(4), 1 + size(2 * members), 1 + size(2)};
  if (random() % 8 == 0) sizes[random() % sizes.size()] = 0;
  if (random() % 8 == 0) {  // several chunks
    for (int64_t& one : sizes) one = std::min<int64_t>(one, 2);
    sizes[random() % sizes.size()] = 3000;
  }
  const auto layout = [&] {
    const int dim = static_cast<int>(random() % sizes.size());
    return Layout{dim, random_parts(sizes[dim], members, random)};
  };
  const Reduce reductions[] = {Reduce::kSum, Reduce::kProduct, Reduce::kMax, Reduce::kMin, Reduce::kMean};
  Reduce how = reductions[random() % 5];
  const bool has_mean = dtype == ir::DType::kF32 || dtype == ir::DType::kF64;
  if (how == Reduce::kMean && !has_mean) how = Reduce::kSum;
  const Layout cut = layout();
  switch (kind) {
    case Kind::kAllReduce: return Collective::all_reduce(dtype, sizes, how);
    case Kind::kAllGather: return Collective::all_gather(dtype, sizes, cut.dim, cut.parts);
    case Kind::kReduceScatter: return Collective::reduce_scatter(dtype, sizes, cut.dim, cut.parts, how);
    case Kind::kAllToAll: return Collective::all_to_all(dtype, sizes, cut, layout());
    default: return Collective::broadcast(dtype, sizes, static_cast<int>(random() % members));
  }
}

}  // namespace moai::runtime
