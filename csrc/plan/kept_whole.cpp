#include "plan/kept_whole.h"

#include <algorithm>
#include <map>

namespace moai::plan {

namespace {

bool can_split(const Frame& frame, size_t node) {
  const ops::Rule& rule = frame.rules[node];
  for (size_t f = 0; f < rule.factors.size(); ++f) {
    if (!rule.splittable(static_cast<int32_t>(f))) continue;
    for (const auto atom : frame.node_factors[node][f]) {
      if (!frame.atoms.opaque(atom) && frame.atoms.size(atom) > 1) return true;
    }
  }
  return false;
}

}  // namespace

KeptWhole kept_whole(const ir::Graph& graph, const Frame& frame) {
  KeptWhole report;
  double flops = 0, bytes = 0;
  std::map<std::pair<std::string, std::string>, KeptWhole::Op> by_op;
  for (size_t n = 0; n < graph.nodes().size(); ++n) {
    const ir::Node& node = graph.nodes()[n];
    const double node_bytes = ops::bytes_moved(graph, static_cast<ir::NodeId>(n), frame.rules[n]);
    flops += frame.rules[n].flops;
    bytes += node_bytes;
    if (can_split(frame, n)) continue;
    report.flops_share += frame.rules[n].flops;
    report.bytes_share += node_bytes;
    auto& op = by_op[{node.op.str(), frame.rules[n].why_whole}];
    op.op = node.op.str();
    op.why = frame.rules[n].why_whole;
    op.flops += frame.rules[n].flops;
    op.bytes += node_bytes;
    ++op.nodes;
  }
  if (flops > 0) report.flops_share /= flops;
  if (bytes > 0) report.bytes_share /= bytes;
  for (auto& [name, op] : by_op) report.ops.push_back(std::move(op));
  std::stable_sort(report.ops.begin(), report.ops.end(),
                   [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
  return report;
}

}  // namespace moai::plan
