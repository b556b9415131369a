// Any text given as a cluster is read or refused with Error, and what is read prints and reads back equal.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "ir/error.h"
#include "plan/cluster/cluster.h"
#include "plan/cluster/collectives.h"

namespace {

using namespace moai::plan;

void check(bool holds) {
  if (!holds) std::abort();
}

void check_cluster(const Cluster& cluster) {
  check(parse_cluster_json(print_json(cluster)) == cluster);
  check(cluster.smallest_memory() > 0);
  double sum = 0;
  for (const double share : cluster.shares()) sum += share;
  check(std::abs(sum - 1) < 1e-6);
  const Group whole = axis_group(cluster, 1, cluster.device_count());
  double least = 0;
  for (const double bytes : {0.0, 1.0, 1e6, 1e12}) {
    const double time = seconds(cluster, Collective::kAllReduce, whole, bytes);
    check(std::isfinite(time) && time >= least);
    least = time;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    // Not parse_cluster: it would open files.
    const bool is_json = text.find('{') != std::string_view::npos;
    check_cluster(is_json ? parse_cluster_json(text) : named_cluster(text));
  } catch (const moai::Error&) {
  }
  return 0;
}
