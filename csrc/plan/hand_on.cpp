#include "plan/hand_on.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "ir/rewrite.h"

namespace moai::plan {

namespace {

// Of a node's results, what its turns add up and others read once they all have.
class Sums {
 public:
  Sums(const ir::Graph& graph, const Frame& frame, const Roles& roles, const TimeAxis& time)
      : graph_(graph),
        frame_(frame),
        roles_(roles),
        time_(time),
        is_read_later_(graph.values().size(), false) {
    for (size_t n = 0; n < graph.nodes().size(); ++n) {
      if (time.repeats[n]) continue;
      for (const auto operand : graph.nodes()[n].operands) is_read_later_[operand] = true;
    }
    for (const auto output : graph.outputs()) is_read_later_[output] = true;
  }

  bool has(ir::ValueId value) const {
    const auto producer = graph_.value(value).producer;
    if (producer < roles_.forward_end || !roles_.in_loop(producer) || !time_.repeats[producer]) return false;
    if (!is_read_later_[value] || time_.ahead[value] || graph_.type(value).numel() < 2) return false;
    for (const auto& dim : frame_.value_dims[value]) {
      if (std::find(dim.begin(), dim.end(), time_.atoms[0]) != dim.end()) return false;
    }
    return adds_up(producer, static_cast<size_t>(graph_.value(value).index));
  }

 private:
  bool adds_up(ir::NodeId node, size_t result) const {
    const auto& factors = frame_.node_factors[node];
    for (size_t f = 0; f < factors.size(); ++f) {
      if (std::find(factors[f].begin(), factors[f].end(), time_.atoms[0]) != factors[f].end())
        return frame_.rules[node].combine[result][f] == ops::Combine::kSum;
    }
    return false;
  }

  const ir::Graph& graph_;
  const Frame& frame_;
  const Roles& roles_;
  const TimeAxis& time_;
  std::vector<bool> is_read_later_;  // by value
};

// The value as it is: its dims in their own order.
ir::Node same_value(ir::ValueId value, size_t dims) {
  ir::Node node;
  node.section = ir::Section::kBackward;
  node.op = ir::Symbol::intern("moai.permute");
  node.operands = {value};
  std::vector<int64_t> order(dims);
  std::iota(order.begin(), order.end(), 0);
  node.args = {ir::OperandRef{0}, std::move(order)};
  return node;
}

}  // namespace

HandedOn hand_on_gradients(const ir::Graph& graph, const Frame& frame, const Roles& roles,
                           const TimeAxis& time) {
  HandedOn out;
  const Sums sums(graph, frame, roles, time);
  ir::Rewrite rewrite(graph);
  std::vector<ir::ValueId> handed(graph.values().size(), ir::kNone);  // by old value
  for (size_t n = 0; n < graph.nodes().size(); ++n) {
    const auto id = static_cast<ir::NodeId>(n);
    ir::Node node = rewrite.renamed(id);
    for (size_t o = 0; o < node.operands.size() && !time.repeats[n]; ++o) {
      const auto by = handed[graph.node(id).operands[o]];
      if (by != ir::kNone) node.operands[o] = by;
    }
    rewrite.keep(id, std::move(node));
    out.original.push_back(id);
    for (const auto result : graph.node(id).results) {
      if (!sums.has(result)) continue;
      const ir::Type& type = graph.type(result);
      handed[result] = rewrite.add(same_value(rewrite[result], type.sizes.size()), type);
      out.original.push_back(ir::kNone);
    }
  }
  for (size_t v = 0; v < handed.size(); ++v) {
    if (handed[v] != ir::kNone) rewrite.replace(static_cast<ir::ValueId>(v), handed[v]);
  }
  out.graph = rewrite.finish();
  return out;
}

}  // namespace moai::plan
