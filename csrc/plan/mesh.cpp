#include "plan/mesh.h"

#include <algorithm>
#include <limits>

#include "ir/error.h"

namespace moai::plan {

namespace {

constexpr double kBucketBytes = 64 << 20;

double bytes_of(const ir::Type& type) {
  return static_cast<double>(type.numel()) * static_cast<double>(ir::element_bytes(type.dtype));
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

double largest_share(int64_t size, int32_t parts) {
  return static_cast<double>((size + parts - 1) / parts) / static_cast<double>(size);
}

Mesh Mesh::make(const Cluster& cluster, const std::vector<int32_t>& sizes) {
  Mesh mesh;
  mesh.cluster = &cluster;
  mesh.axes.resize(sizes.size());
  int64_t stride = 1;
  for (size_t a = sizes.size(); a-- > 0;) {
    mesh.axes[a].size = sizes[a];
    mesh.axes[a].group = axis_group(cluster, stride, sizes[a]);
    stride *= sizes[a];
  }
  MOAI_ASSERT(stride <= cluster.device_count(), "the mesh has ", stride, " devices");
  return mesh;
}

std::string Mesh::str() const {
  std::string text;
  for (const auto& axis : axes) text += (text.empty() ? "" : " x ") + std::to_string(axis.size);
  return text.empty() ? "1" : text;
}

double local_bytes(const ir::Type& type, const std::vector<std::vector<int64_t>>& leaf_sizes,
                   const Placement& placement, const Mesh& mesh) {
  return bytes_of(type) * share(leaf_sizes, placement, mesh, -1);
}

double convert_seconds(const ir::Type& type, const std::vector<std::vector<int64_t>>& leaf_sizes,
                       const Placement& from, const Placement& to, const Mesh& mesh, bool merged) {
  using K = Split::Kind;
  double total = 0;
  for (size_t a = 0; a < from.size(); ++a) {
    const auto &x = from[a], &y = to[a];
    // A replica has every part, and of a sum it is one part with zeros for the others.
    if (x == y || x.kind == K::kReplicate) continue;
    if (y.kind == K::kReduced || (y.kind == K::kPartial && x.kind == K::kReduced))
      return std::numeric_limits<double>::infinity();
    if (y.kind == K::kPartial) continue;  // a shard, with zeros around it
    Collective how = Collective::kAllReduce;
    if (x.kind == K::kShard) how = y.kind == K::kShard ? Collective::kAllToAll : Collective::kAllGather;
    if (x.kind == K::kPartial && y.kind == K::kShard) how = Collective::kReduceScatter;
    const double bytes = bytes_of(type) * share(leaf_sizes, from, mesh, static_cast<int32_t>(a));
    const double together = merged ? std::max(bytes, kBucketBytes) : bytes;
    const double taken = seconds(*mesh.cluster, how, mesh.axes[a].group, together);
    total += bytes > 0 ? taken * bytes / together : 0;
  }
  return total;
}

}  // namespace moai::plan
