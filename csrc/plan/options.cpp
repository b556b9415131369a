#include "plan/options.h"

#include <algorithm>
#include <limits>

#include "plan/op_cost.h"

namespace moai::plan {

namespace {

using ops::Combine;
using ops::Rule;
using K = Split::Kind;

// Where atom `leaf` of `factor` is in a tensor: the dim, and its place among the dim's atoms. False if it is
// not.
bool find_leaf(const ops::TensorFactors& tensor, const std::vector<Dim>& node_factors, int16_t factor,
               int16_t leaf, Split* found) {
  for (size_t d = 0; d < tensor.size(); ++d) {
    size_t before = 0;
    for (const auto f : tensor[d]) {
      if (f == factor) {
        *found = {K::kShard, static_cast<int16_t>(d),
                  static_cast<int16_t>(before + static_cast<size_t>(leaf))};
        return true;
      }
      before += node_factors[f].size();
    }
  }
  return false;
}

bool contains(const std::vector<int32_t>& list, int32_t item) {
  return std::find(list.begin(), list.end(), item) != list.end();
}

class Enumerate {
 public:
  Enumerate(const ir::Graph& graph, const Frame& frame, ir::NodeId id, const Mesh& mesh, const Roles* roles)
      : graph_(graph),
        frame_(frame),
        id_(id),
        rule_(frame.rules[id]),
        factors_(frame.node_factors[id]),
        mesh_(mesh),
        roles_(roles != nullptr && roles->in_loop(id) ? roles : nullptr) {}

  std::vector<Option> all() {
    std::vector<std::vector<AxisChoice>> by_axis;
    for (const auto& axis : mesh_.axes) by_axis.push_back(choices(axis));
    std::vector<AxisChoice> chosen(mesh_.axes.size());
    combine(by_axis, 0, chosen);
    return std::move(options_);
  }

 private:
  std::vector<AxisChoice> choices(const Axis& axis) const {
    std::vector<AxisChoice> found{{}};
    for (size_t f = 0; f < rule_.factors.size(); ++f) {
      if (!rule_.splittable(static_cast<int32_t>(f))) continue;
      for (size_t k = 0; k < factors_[f].size(); ++k) {
        const auto atom = factors_[f][k];
        if (frame_.atoms.opaque(atom) || frame_.atoms.size(atom) < axis.size) continue;
        // A part that must know where it starts, or what lies beside it, has to be one run of indices.
        const auto position = rule_.factors[f].position;
        const bool is_run = position != ops::Position::kNone && position != ops::Position::kSampled;
        const int32_t over = rule_.factors[f].window.over;
        if (k > 0 && (is_run || over >= 0)) continue;
        if (over >= 0 && !can_split_seen(over, axis.size)) continue;
        if (roles_ != nullptr && !axis.may_split(roles_->of_atom[atom])) continue;
        const int32_t other = rule_.factors[f].trades;
        if (other >= 0 && (k > 0 || !can_split_seen(other, axis.size) || !may_split(axis, other))) continue;
        found.push_back({AxisChoice::Kind::kFactor, static_cast<int16_t>(f), static_cast<int16_t>(k)});
      }
    }
    for (size_t s = 0; s < rule_.linear.size(); ++s)
      found.push_back({AxisChoice::Kind::kLinear, static_cast<int16_t>(s), 0});
    return found;
  }

  // Rows that leave lie by what the factor trades for, first.
  bool may_split(const Axis& axis, int32_t factor) const {
    return roles_ == nullptr || axis.may_split(roles_->of_atom[factors_[factor][0]]);
  }

  bool can_split_seen(int32_t over, int64_t parts) const {
    const Dim& atoms = factors_[over];
    return !atoms.empty() && !frame_.atoms.opaque(atoms[0]) && frame_.atoms.size(atoms[0]) >= parts;
  }

  void combine(const std::vector<std::vector<AxisChoice>>& by_axis, size_t axis,
               std::vector<AxisChoice>& chosen) {
    if (axis == by_axis.size()) {
      add(chosen);
      return;
    }
    for (const auto& choice : by_axis[axis]) {
      chosen[axis] = choice;
      if (fits(chosen, axis)) combine(by_axis, axis + 1, chosen);
    }
  }

  // Whether the axes up to `last` that split the same atom fit into it together.
  bool fits(const std::vector<AxisChoice>& chosen, size_t last) const {
    if (chosen[last].kind != AxisChoice::Kind::kFactor) return true;
    const auto atom = factors_[chosen[last].factor][chosen[last].leaf];
    int64_t parts = 1;
    for (size_t a = 0; a <= last; ++a) {
      if (chosen[a].kind == AxisChoice::Kind::kFactor && factors_[chosen[a].factor][chosen[a].leaf] == atom)
        parts *= mesh_.axes[a].size;
    }
    const int32_t over = rule_.factors[chosen[last].factor].window.over;
    return parts <= frame_.atoms.size(atom) && (over < 0 || can_split_seen(over, parts)) &&
           trades_once(chosen, last);
  }

  // A factor trades for another along one axis at most, which with all others must fit that one. Axes inside
  // of it divide what they have evenly, so that it is as much before the trade and after.
  bool trades_once(const std::vector<AxisChoice>& chosen, size_t last) const {
    int32_t other = -1;
    for (size_t a = 0; a <= last; ++a) {
      if (chosen[a].kind != AxisChoice::Kind::kFactor) continue;
      const int32_t trades = rule_.factors[chosen[a].factor].trades;
      if (trades < 0) continue;
      if (other >= 0) return false;
      other = trades;
    }
    if (other < 0) return true;
    int64_t parts = 1;
    bool is_inside = false, must_divide = false;
    for (size_t a = 0; a <= last; ++a) {
      if (chosen[a].kind != AxisChoice::Kind::kFactor) continue;
      const bool trades = rule_.factors[chosen[a].factor].trades == other;
      if (!trades && chosen[a].factor != other) continue;
      must_divide = must_divide || is_inside;
      is_inside = is_inside || trades;
      parts *= mesh_.axes[a].size;
    }
    const int64_t size = frame_.atoms.size(factors_[other][0]);
    return parts <= size && (!must_divide || size % parts == 0);
  }

  bool find_split(const ops::TensorFactors& tensor, const AxisChoice& choice, Split* found) const {
    const int32_t by = rule_.sharded_by(tensor, choice.factor);
    return by >= 0 && find_leaf(tensor, factors_, static_cast<int16_t>(by), choice.leaf, found);
  }

  Split operand_split(size_t operand, const AxisChoice& choice) const {
    const auto o = static_cast<int32_t>(operand);
    if (choice.kind == AxisChoice::Kind::kLinear) {
      const auto& set = rule_.linear[choice.factor];  // of all operands, as a rule, and these may be many
      const bool is_in = set.size() == rule_.operands.size() || contains(set, o);
      return {is_in ? K::kPartial : K::kReplicate};
    }
    if (choice.kind == AxisChoice::Kind::kWhole || contains(rule_.replicated, o)) return {};
    Split split;
    if (find_split(rule_.operands[operand], choice, &split)) return split;
    return {contains(rule_.additive, o) && is_summed(choice.factor) ? K::kPartial : K::kReplicate};
  }

  bool is_summed(int16_t factor) const {
    Split split;
    return !find_leaf(rule_.results[0], factors_, factor, 0, &split);
  }

  Split result_split(size_t result, const AxisChoice& choice) const {
    if (choice.kind == AxisChoice::Kind::kLinear) return {K::kPartial};
    if (choice.kind == AxisChoice::Kind::kWhole) return {};
    Split split;
    if (find_split(rule_.results[result], choice, &split)) return split;
    const Combine how = rule_.combine[result][choice.factor];
    return {how == Combine::kSame ? K::kReplicate : how == Combine::kSum ? K::kPartial : K::kReduced};
  }

  void add(const std::vector<AxisChoice>& chosen) {
    const ir::Node& node = graph_.node(id_);
    Option option;
    option.choices = chosen;
    option.operands.resize(node.operands.size());
    option.results.resize(node.results.size());
    for (size_t a = 0; a < chosen.size(); ++a) {
      for (size_t o = 0; o < node.operands.size(); ++o)
        option.operands[o].push_back(operand_split(o, chosen[a]));
      for (size_t r = 0; r < node.results.size(); ++r)
        option.results[r].push_back(result_split(r, chosen[a]));
    }
    const OpCost cost = cost_of(graph_, frame_, id_, option, mesh_);
    option.seconds = cost.seconds();
    option.sending = cost.exchange;
    option.scratch_bytes = scratch_bytes_of(graph_, frame_, id_, option, mesh_);
    options_.push_back(std::move(option));
  }

  const ir::Graph& graph_;
  const Frame& frame_;
  ir::NodeId id_;
  const Rule& rule_;
  const std::vector<Dim>& factors_;
  const Mesh& mesh_;
  const Roles* roles_;
  std::vector<Option> options_;
};

}  // namespace

std::vector<Option> options_of(const ir::Graph& graph, const Frame& frame, ir::NodeId node, const Mesh& mesh,
                               const Roles* roles) {
  return Enumerate(graph, frame, node, mesh, roles).all();
}

bool keeps_order(const Frame& frame, ir::ValueId value, const Placement& from, const Placement& to) {
  const int32_t dim = frame.own_order[value];
  if (dim < 0) return true;
  const auto cuts_rows = [&](const Split& split) { return split.kind == K::kShard && split.dim == dim; };
  for (size_t a = 0; a < from.size(); ++a) {
    if (from[a] != to[a] && (cuts_rows(from[a]) || cuts_rows(to[a]))) return false;
  }
  return true;
}

double convert_seconds(const ir::Graph& graph, const Frame& frame, ir::ValueId value, const Placement& from,
                       const Placement& to, const Mesh& mesh, bool merged) {
  if (!keeps_order(frame, value, from, to)) return std::numeric_limits<double>::infinity();
  return convert_seconds(graph.type(value), leaf_sizes(frame, value), from, to, mesh, merged);
}

std::vector<Placement> input_placements(const Frame& frame, ir::ValueId value, const Mesh& mesh) {
  std::vector<Placement> all{{}};
  for (size_t a = 0; a < mesh.axes.size(); ++a) {
    std::vector<Placement> longer;
    for (const auto& placement : all) {
      longer.push_back(placement);
      longer.back().emplace_back();
      const auto& dims = frame.value_dims[value];
      for (size_t d = 0; d < dims.size(); ++d) {
        for (size_t k = 0; k < dims[d].size(); ++k) {
          const Split split{K::kShard, static_cast<int16_t>(d), static_cast<int16_t>(k)};
          int64_t parts = mesh.axes[a].size;
          for (size_t before = 0; before < a; ++before) {
            if (placement[before] == split) parts *= mesh.axes[before].size;
          }
          if (frame.atoms.opaque(dims[d][k]) || frame.atoms.size(dims[d][k]) < parts) continue;
          longer.push_back(placement);
          longer.back().push_back(split);
        }
      }
    }
    all = std::move(longer);
  }
  return all;
}

}  // namespace moai::plan
