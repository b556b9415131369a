#include "plan/rules_of_graph.h"

#include <algorithm>

#include "ir/arg.h"

namespace moai::plan {

namespace {

// Note [What a rule reads]
// Of a node its kind, op, static arguments and ties, and the types of its tensors: not which values these
// are, and of the step's numbers only that they are some.
class Nodes {
 public:
  explicit Nodes(const ir::Graph& graph) : graph_(graph) {}

  uint64_t hash(const ir::Node& node) const {
    uint64_t hash = ir::mix(static_cast<uint64_t>(node.kind), std::hash<ir::Symbol>()(node.op));
    hash = ir::mix_static(hash, node.args);
    for (const auto value : node.operands) hash = ir::mix_type(hash, graph_.type(value));
    for (const auto value : node.results) hash = ir::mix_type(hash, graph_.type(value));
    return hash;
  }

  bool same(const ir::Node& a, const ir::Node& b) const {
    const auto same_args = [](const ir::Arg& x, const ir::Arg& y) {
      return ir::is_number(x) ? x.index() == y.index() : ir::same_arg(x, y);
    };
    const auto same_types = [&](ir::ValueId x, ir::ValueId y) { return graph_.type(x) == graph_.type(y); };
    return a.kind == b.kind && a.op == b.op && a.tied == b.tied &&
           std::equal(a.args.begin(), a.args.end(), b.args.begin(), b.args.end(), same_args) &&
           std::equal(a.operands.begin(), a.operands.end(), b.operands.begin(), b.operands.end(),
                      same_types) &&
           std::equal(a.results.begin(), a.results.end(), b.results.begin(), b.results.end(), same_types);
  }

 private:
  const ir::Graph& graph_;
};

}  // namespace

Repeated<ops::Rule> rules_of_graph(const ir::Graph& graph) {
  const Nodes nodes(graph);
  Repeated<ops::Rule> rules;
  FirstOfLike known;
  for (size_t n = 0; n < graph.nodes().size(); ++n) {
    const ir::Node& node = graph.nodes()[n];
    const size_t like = known.place(nodes.hash(node), n,
                                    [&](size_t other) { return nodes.same(graph.nodes()[other], node); });
    if (like == n) {
      rules.push_back(ops::rule_of(graph, static_cast<ir::NodeId>(n)));
    } else {
      rules.push_again(rules.number(like));
    }
  }
  return rules;
}

}  // namespace moai::plan
