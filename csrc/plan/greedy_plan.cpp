#include "plan/greedy_plan.h"

#include <limits>
#include <utility>

#include "ir/error.h"

namespace moai::plan {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

using Splits = std::function<bool(int32_t atom)>;

Placement smallest(const ir::Graph& graph, const Frame& frame, const Mesh& mesh, ir::ValueId input,
                   const Splits& splits, bool sharded) {
  Placement best;
  double least = kInfinity;
  for (auto& placement : input_placements(frame, input, mesh)) {
    bool may = true;
    for (const auto& split : placement) {
      if (split.kind == Split::Kind::kShard)
        may = may && (sharded || splits(frame.value_dims[input][split.dim][split.leaf]));
    }
    const double bytes = local_bytes(graph.type(input), leaf_sizes(frame, input), placement, mesh);
    if (!may || bytes >= least) continue;
    least = bytes;
    best = std::move(placement);
  }
  return best;
}

}  // namespace

Assignment greedy_assignment(const ir::Graph& graph, const Frame& frame, const Mesh& mesh,
                             const Splits& splits, bool sharded) {
  Assignment out;
  for (const auto input : graph.inputs())
    out.inputs.push_back(smallest(graph, frame, mesh, input, splits, sharded));
  for (size_t n = 0; n < graph.nodes().size(); ++n) {
    const auto& operands = graph.nodes()[n].operands;
    Option best;
    double least = kInfinity;
    for (auto& option : options_of(graph, frame, static_cast<ir::NodeId>(n), mesh)) {
      bool may = true;
      for (const auto& choice : option.choices) {
        if (choice.kind == AxisChoice::Kind::kFactor)
          may = may && splits(frame.node_factors[n][choice.factor][choice.leaf]);
      }
      if (!may) continue;
      double cost = option.seconds;
      for (size_t o = 0; o < operands.size(); ++o)
        cost += convert_seconds(graph, frame, operands[o], out.placement(graph, operands[o]),
                                option.operands[o], mesh, true);
      if (cost >= least) continue;
      least = cost;
      best = std::move(option);
    }
    MOAI_ASSERT(least < kInfinity, "a node that can lie nowhere: ", graph.nodes()[n].op.str());
    out.seconds += least;
    out.nodes.push_back(std::move(best));
  }
  out.fits = true;
  return out;
}

}  // namespace moai::plan
