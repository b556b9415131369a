#include "plan/breakdown.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <utility>

namespace moai::plan {

namespace {

// What it is called among the ops.
constexpr const char* kAdding = "sum of micro-batches";

OpCost& operator+=(OpCost& a, const OpCost& b) {
  a.product += b.product;
  a.attention += b.attention;
  a.memory += b.memory;
  a.overhead += b.overhead;
  a.exchange += b.exchange;
  a.host += b.host;
  return a;
}

OpCost operator*(OpCost cost, double times) {
  cost.product *= times;
  cost.attention *= times;
  cost.memory *= times;
  cost.overhead *= times;
  cost.exchange *= times;
  cost.host *= times;
  return cost;
}

// The side of the roofline that is the lower one takes no time.
OpCost binding(OpCost cost) {
  if (cost.product + cost.attention >= cost.memory) {
    cost.memory = 0;
  } else {
    cost.product = cost.attention = 0;
  }
  return cost;
}

template <typename Key, typename Of>
std::vector<Of> longest_first(std::map<Key, Of> all) {
  std::vector<Of> sorted;
  sorted.reserve(all.size());
  for (auto& [key, one] : all) sorted.push_back(std::move(one));
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const Of& a, const Of& b) { return a.seconds > b.seconds; });
  return sorted;
}

}  // namespace

Breakdown breakdown(const Step& step, const Frame& turn, const Mesh& mesh, const Terms& terms,
                    const Assignment& assignment) {
  const ir::Graph& graph = step.graph;
  Breakdown out;
  std::map<std::string, Breakdown::Op> ops;
  std::map<std::tuple<Collective, size_t, bool>, Breakdown::Message> messages;
  std::set<std::pair<ir::ValueId, Placement>>
      there;  // a value is brought to a place once for all that want it
  const double part = 1.0 / terms.stages;
  const auto bring = [&](ir::ValueId value, const Placement& from, const Placement& to, bool merged,
                         double times) {
    if (from == to || !there.emplace(value, to).second) return;
    for (const AxisMove& move :
         convert_moves(graph.type(value), leaf_sizes(turn, value), from, to, mesh, merged)) {
      auto& message = messages[{move.collective, move.axis, merged}];
      message.collective = move.collective;
      message.axis = move.axis;
      message.is_gradient = merged;
      message.count += times;
      message.bytes += times * move.bytes;
      message.seconds += times * move.seconds;
    }
  };
  const auto count = [&](const std::string& name, const OpCost& once, double times) {
    const OpCost cost = once * times;
    if (cost.seconds() <= 0) return;
    auto& op = ops[name];
    op.name = name;
    op.count += times;
    op.seconds += cost.seconds();
    op.cost += cost;
    out.compute += cost;
  };
  for (ir::NodeId n = 0; n < static_cast<ir::NodeId>(graph.nodes().size()); ++n) {
    const ir::Node& node = graph.node(n);
    const Option& option = assignment.nodes[n];
    const double times = part * (step.time.repeats[n] ? terms.turns : 1);
    for (size_t o = 0; o < node.operands.size(); ++o)
      bring(node.operands[o], assignment.placement(graph, node.operands[o]), option.operands[o],
            step.is_bucketed(n), times);
    count(node.op.str(), binding(cost_of(graph, turn, n, option, mesh)), times);
    for (size_t r = 0; r < node.results.size() && terms.turns > 1; ++r) {
      if (!step.is_sum(node.results[r])) continue;
      count(kAdding, cost_of_adding(graph, turn, node.results[r], option.results[r], mesh),
            part * (terms.turns - 1));
    }
  }
  for (const auto output : graph.outputs()) {
    const auto input = updated_input(graph, output);
    if (input == ir::kNone || graph.value(output).producer == ir::kNone) continue;
    bring(output, assignment.placement(graph, output), assignment.placement(graph, input), true, part);
  }
  out.ops = longest_first(std::move(ops));
  out.messages = longest_first(std::move(messages));
  return out;
}

}  // namespace moai::plan
