#include "plan/pipeline_bound.h"

#include <algorithm>
#include <vector>

#include "plan/options.h"

namespace moai::plan {

double least_pipeline_seconds(const Step& step, const Frame& turn, const Cluster& cluster, int32_t turns,
                              int32_t stages, int32_t devices, int32_t chunks) {
  const Mesh alone = Mesh::make(cluster, {});
  const double overhead = cluster.device(0).op_overhead_s;
  std::vector<double> of_colour(step.fold.count.size(), -1);
  double forward = 0, loop = 0, once = 0;
  for (size_t n = 0; n < step.fold.of_node.size(); ++n) {
    const auto id = static_cast<ir::NodeId>(n);
    double& seconds = of_colour[step.fold.of_node[n]];
    if (seconds < 0) {
      const double whole = options_of(step.graph, turn, id, alone).front().seconds;
      seconds = whole > overhead ? (whole - overhead) / devices + overhead : whole;
    }
    (step.time.repeats[n] ? loop : once) += seconds;
    if (step.time.repeats[n] && id < step.roles.forward_end) forward += seconds;
  }
  const double work = turns * loop;
  if (stages == 1) return work + once;
  const double others = work / (stages - 1), fill = forward / chunks;
  const double share = others > fill ? (others - fill) / (work + others - fill) : 0;
  const double busiest = others > fill ? (1 - share) * others : fill;
  return busiest + once / stages;
}

}  // namespace moai::plan
