#include "plan/mesh.h"

#include <algorithm>
#include <limits>

#include "ir/error.h"

namespace moai::plan {

namespace {

constexpr double kBucketBytes = 64 << 20;

double bytes_of(const ir::Type& type, const std::vector<std::vector<int64_t>>& leaf_sizes) {
  auto bytes = static_cast<double>(ir::element_bytes(type.dtype));
  for (const auto& dim : leaf_sizes) {
    for (const auto size : dim) bytes *= static_cast<double>(size);
  }
  return bytes;
}

Collective collective_of(Change change) {
  switch (change) {
    case Change::kAllGather: return Collective::kAllGather;
    case Change::kReduceScatter: return Collective::kReduceScatter;
    case Change::kAllToAll: return Collective::kAllToAll;
    default: return Collective::kAllReduce;
  }
}

// The share of the value on one device, `skip` (an axis, or -1) left out.
double share(const std::vector<std::vector<int64_t>>& leaf_sizes, const Placement& placement,
             const Mesh& mesh, int32_t skip) {
  double share = 1;
  for (size_t a = 0; a < placement.size(); ++a) {
    if (static_cast<int32_t>(a) == skip || placement[a].kind != Split::Kind::kShard) continue;
    const int64_t size = leaf_sizes[placement[a].dim][placement[a].leaf];
    share *= largest_share(size, mesh.axes[a].size);
  }
  return share;
}

}  // namespace

Change change_of(const Split& from, const Split& to) {
  using K = Split::Kind;
  if (from == to) return Change::kNothing;
  if (to.kind == K::kReduced) return Change::kImpossible;
  switch (from.kind) {
    case K::kReplicate: return Change::kLocal;
    case K::kShard:
      if (to.kind == K::kPartial) return Change::kLocal;  // with zeros around it
      return to.kind == K::kShard ? Change::kAllToAll : Change::kAllGather;
    case K::kPartial: return to.kind == K::kShard ? Change::kReduceScatter : Change::kAllReduce;
    case K::kReduced: return to.kind == K::kPartial ? Change::kImpossible : Change::kAllReduce;
  }
  return Change::kImpossible;
}

double largest_share(int64_t size, int32_t parts) {
  return static_cast<double>((size + parts - 1) / parts) / static_cast<double>(size);
}

Mesh Mesh::make(const Cluster& cluster, const std::vector<int32_t>& sizes,
                const std::vector<uint8_t>& splits) {
  Mesh mesh;
  mesh.cluster = &cluster;
  mesh.axes.resize(sizes.size());
  int64_t stride = 1;
  for (size_t a = sizes.size(); a-- > 0;) {
    mesh.axes[a].size = sizes[a];
    mesh.axes[a].group = axis_group(cluster, stride, sizes[a]);
    if (!splits.empty()) mesh.axes[a].splits = splits[a];
    stride *= sizes[a];
  }
  MOAI_ASSERT(stride <= cluster.device_count(), "the mesh has ", stride, " devices");
  return mesh;
}

std::vector<int32_t> Mesh::sizes() const {
  std::vector<int32_t> all;
  for (const auto& axis : axes) all.push_back(axis.size);
  return all;
}

std::string Mesh::str() const {
  std::string text;
  for (const auto& axis : axes) text += (text.empty() ? "" : " x ") + std::to_string(axis.size);
  return text.empty() ? "1" : text;
}

double local_bytes(const ir::Type& type, const std::vector<std::vector<int64_t>>& leaf_sizes,
                   const Placement& placement, const Mesh& mesh) {
  return bytes_of(type, leaf_sizes) * share(leaf_sizes, placement, mesh, -1);
}

namespace {

// Along one axis, from one kind to another that is possible and no change of place alone.
AxisMove move_along(const ir::Type& type, const std::vector<std::vector<int64_t>>& leaf_sizes,
                    const Placement& from, const Mesh& mesh, size_t axis, Change change, bool merged) {
  AxisMove move;
  move.axis = axis;
  move.collective = collective_of(change);
  move.bytes = bytes_of(type, leaf_sizes) * share(leaf_sizes, from, mesh, static_cast<int32_t>(axis));
  const double together = merged ? std::max(move.bytes, kBucketBytes) : move.bytes;
  const double taken = seconds(*mesh.cluster, move.collective, mesh.axes[axis].group, together);
  move.seconds = move.bytes > 0 ? taken * move.bytes / together : 0;
  return move;
}

bool moves_nothing(Change change) { return change == Change::kNothing || change == Change::kLocal; }

// Calls `move(axis, change, at)` for each axis that moves something, `at` being where the value lies by then:
// parts are taken first, so that what is summed or gathered after them is small. The compiler goes the same
// way (convert_steps.cpp).
template <typename Move>
void in_order(const Placement& from, const Placement& to, const Move& move) {
  using K = Split::Kind;
  Placement shrunk;  // empty while nothing is
  const auto take = [&](size_t a) {
    if (shrunk.empty()) shrunk = from;
    shrunk[a] = to[a];
  };
  for (size_t a = 0; a < from.size(); ++a) {
    if (from[a].kind == K::kReplicate && to[a].kind == K::kShard) take(a);
  }
  for (size_t a = 0; a < from.size(); ++a) {
    if (from[a].kind != K::kPartial || to[a].kind != K::kShard) continue;
    move(a, Change::kReduceScatter, shrunk.empty() ? from : shrunk);
    take(a);
  }
  for (size_t a = 0; a < from.size(); ++a) {
    const Change change = change_of(from[a], to[a]);
    if (change != Change::kReduceScatter && !moves_nothing(change))
      move(a, change, shrunk.empty() ? from : shrunk);
  }
}

}  // namespace

std::vector<AxisMove> convert_moves(const ir::Type& type, const std::vector<std::vector<int64_t>>& leaf_sizes,
                                    const Placement& from, const Placement& to, const Mesh& mesh,
                                    bool merged) {
  std::vector<AxisMove> moves;
  in_order(from, to, [&](size_t a, Change change, const Placement& at) {
    MOAI_ASSERT(change != Change::kImpossible, "axis ", a);
    moves.push_back(move_along(type, leaf_sizes, at, mesh, a, change, merged));
  });
  return moves;
}

double convert_seconds(const ir::Type& type, const std::vector<std::vector<int64_t>>& leaf_sizes,
                       const Placement& from, const Placement& to, const Mesh& mesh, bool merged) {
  double total = 0;
  in_order(from, to, [&](size_t a, Change change, const Placement& at) {
    total += change == Change::kImpossible
                 ? std::numeric_limits<double>::infinity()
                 : move_along(type, leaf_sizes, at, mesh, a, change, merged).seconds;
  });
  return total;
}

}  // namespace moai::plan
