#include "plan/roles.h"

#include <algorithm>
#include <map>

#include "ir/error.h"
#include "ops/expert_rows.h"
#include "ops/routed_rows.h"

namespace moai::plan {

namespace {

using ops::Combine;

constexpr const char* kGroupedProduct = "aten._grouped_mm";

// The outermost atoms of inputs that no step changes, with the FLOPs of the nodes that have them.
std::vector<int32_t> most_common_rows(const ir::Graph& graph, const Frame& frame) {
  std::vector<bool> changes(graph.values().size(), false);
  for (const auto output : graph.outputs()) {
    const auto input = updated_input(graph, output);
    if (input != ir::kNone && input != output) changes[input] = true;
  }
  std::map<int32_t, double> flops;
  for (const auto input : graph.inputs()) {
    const auto& dims = frame.value_dims[input];
    // What backward leaves behind of the same dims is its gradient, so it is a weight.
    const bool has_gradient =
        std::any_of(graph.outputs().begin(), graph.outputs().end(), [&](ir::ValueId output) {
          const auto producer = graph.value(output).producer;
          return producer != ir::kNone && graph.node(producer).section == ir::Section::kBackward &&
                 frame.value_dims[output] == dims;
        });
    if (!changes[input] && !has_gradient && dims.size() > 1 && !dims[0].empty()) flops[dims[0][0]] = 0;
  }
  for (size_t n = 0; n < graph.nodes().size(); ++n) {
    for (const auto& factor : frame.node_factors[n]) {
      if (factor.empty()) continue;
      const auto it = flops.find(factor[0]);
      if (it != flops.end()) it->second += frame.rules[n].flops;
    }
  }
  const auto most = std::max_element(flops.begin(), flops.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  return most == flops.end() || most->second == 0 ? std::vector<int32_t>{}
                                                  : std::vector<int32_t>{most->first};
}

bool has_any(const Dim& dim, const std::vector<int32_t>& atoms) {
  return std::any_of(dim.begin(), dim.end(),
                     [&](int32_t a) { return std::find(atoms.begin(), atoms.end(), a) != atoms.end(); });
}

// Places of an image are positions in a sample, as those of a text are.
void find_space(const ir::Graph& graph, const Frame& frame, Roles* roles) {
  for (size_t n = 0; n < graph.nodes().size(); ++n) {
    const auto& factors = frame.rules[n].factors;
    for (size_t f = 0; f < factors.size(); ++f) {
      if (factors[f].window.over < 0) continue;
      for (const auto atom : frame.node_factors[n][f]) roles->of_atom[atom] = Role::kSequence;
      for (const auto atom : frame.node_factors[n][factors[f].window.over])
        roles->of_atom[atom] = Role::kSequence;
    }
  }
}

}  // namespace

ir::ValueId updated_input(const ir::Graph& graph, ir::ValueId value) {
  for (;;) {
    const auto producer = graph.value(value).producer;
    if (producer == ir::kNone) return value;
    const ir::Node& node = graph.node(producer);
    const int32_t operand = node.kind == ir::NodeKind::kUpdate
                                ? 0
                                : node.tied_operand(static_cast<size_t>(graph.value(value).index));
    if (operand == ir::kNone) return ir::kNone;
    value = node.operands[operand];
  }
}

std::vector<ir::ValueId> find_bases(const ir::Graph& graph, const Frame& frame) {
  std::vector<ir::ValueId> base(graph.values().size());
  for (size_t v = 0; v < base.size(); ++v) base[v] = static_cast<ir::ValueId>(v);
  for (size_t n = 0; n < graph.nodes().size(); ++n) {
    const ir::Node& node = graph.nodes()[n];
    const bool shares = frame.rules[n].free && !node.operands.empty();
    for (size_t r = 0; r < node.results.size(); ++r) {
      if (shares || node.kind == ir::NodeKind::kUpdate) base[node.results[r]] = base[node.operands[0]];
      if (node.tied_operand(r) != ir::kNone)
        base[node.results[r]] = base[node.operands[node.tied_operand(r)]];
    }
  }
  return base;
}

Roles find_roles(const ir::Graph& graph, const Frame& frame) {
  Roles roles;
  roles.of_atom.assign(static_cast<size_t>(frame.atoms.count()), Role::kFeature);
  const auto nodes = static_cast<ir::NodeId>(graph.nodes().size());
  for (ir::NodeId n = 0; n < nodes; ++n) {
    const ir::Node& node = graph.node(n);
    if (node.section == ir::Section::kBackward) {
      if (roles.backward_end == 0) roles.forward_end = n;
      roles.backward_end = n + 1;
    }
    if (node.op.str() == kGroupedProduct || node.op == ops::routed_rows().grouped_mm ||
        node.op == ops::expert_rows().mm) {
      for (const auto operand : node.operands) {
        const auto& dims = frame.value_dims[operand];
        if (dims.size() != 3) continue;
        for (const auto atom : dims[0]) roles.of_atom[atom] = Role::kExpert;
      }
    }
  }
  if (roles.backward_end == 0) roles.forward_end = roles.backward_end = nodes;
  find_space(graph, frame, &roles);

  bool has_integers = false;
  for (const auto input : graph.inputs()) {
    const auto& type = graph.type(input);
    const auto& dims = frame.value_dims[input];
    if (type.dtype != ir::DType::kI64 || dims.empty()) continue;
    has_integers = true;
    if (dims.size() > 1) {
      for (const auto atom : dims[1]) roles.of_atom[atom] = Role::kSequence;
    }
  }
  for (const auto input : graph.inputs()) {
    const auto& type = graph.type(input);
    if (type.dtype != ir::DType::kI64 || type.sizes.empty()) continue;
    for (const auto atom : frame.value_dims[input][0]) roles.of_atom[atom] = Role::kBatch;
  }
  if (!has_integers) {
    for (const auto atom : most_common_rows(graph, frame)) roles.of_atom[atom] = Role::kBatch;
  }

  std::vector<bool> early(graph.values().size(), false);
  for (ir::NodeId n = 0; n < roles.backward_end; ++n) {
    for (const auto operand : graph.node(n).operands) early[operand] = true;
  }
  for (const auto input : graph.inputs()) {
    bool is_data = false;
    for (const auto& dim : frame.value_dims[input]) {
      for (const auto atom : dim) is_data = is_data || roles.of_atom[atom] == Role::kBatch;
    }
    roles.of_input.push_back(is_data        ? InputRole::kData
                             : early[input] ? InputRole::kWeight
                                            : InputRole::kState);
  }
  return roles;
}

namespace {

// What a value has to do with time.
enum class Over : uint8_t {
  kPart,   // each turn has a part of it
  kSame,   // no turn changes it
  kSum,    // adds up over the turns; passes what is linear
  kAfter,  // is only known after the last turn
};

bool is_integer_or_bool(ir::DType dtype) { return ir::is_integer(dtype) || dtype == ir::DType::kBool; }

// nll_loss's second result counts its targets' weights.
bool is_count(const ir::Node& node, size_t result) {
  return result == 1 && node.op.str().rfind("aten.nll_loss", 0) == 0;
}

}  // namespace

TimeAxis find_time_axis(const ir::Graph& graph, const Frame& frame, const Roles& roles) {
  TimeAxis axis;
  axis.repeats.assign(graph.nodes().size(), false);
  axis.ahead.assign(graph.values().size(), false);
  for (const auto input : graph.inputs()) {
    for (const auto& dim : frame.value_dims[input]) {
      for (const auto atom : dim) {
        if (roles.of_atom[atom] == Role::kBatch &&
            std::find(axis.atoms.begin(), axis.atoms.end(), atom) == axis.atoms.end())
          axis.atoms.push_back(atom);
      }
    }
  }
  if (axis.atoms.empty()) {
    const bool is_one = std::any_of(graph.inputs().begin(), graph.inputs().end(), [&](ir::ValueId input) {
      const auto& type = graph.type(input);
      return type.dtype == ir::DType::kI64 && !type.sizes.empty() && type.sizes[0] == 1;
    });
    axis.size = is_one ? 1 : 0;
    axis.obstacle = is_one ? "the batch holds one sample" : "no input of the step is a batch";
    return axis;
  }
  axis.size = frame.atoms.size(axis.atoms[0]);
  const std::vector<int32_t> outermost{axis.atoms[0]};
  const auto forbid = [&](ir::NodeId node, const std::string& why) {
    if (axis.obstacle.empty()) axis.obstacle = concat(graph.node(node).op.str(), " ", why);
  };

  std::vector<bool> of_integers(graph.values().size(), false);  // what it comes from is
  for (const auto input : graph.inputs()) of_integers[input] = is_integer_or_bool(graph.type(input).dtype);
  std::vector<Over> over(graph.values().size(), Over::kSame);
  std::vector<ir::NodeId> origin(graph.values().size(), ir::kNone);  // of a sum: who added up
  for (const auto input : graph.inputs()) {
    for (const auto& dim : frame.value_dims[input]) {
      if (has_any(dim, outermost)) over[input] = Over::kPart;
    }
  }
  for (ir::NodeId n = 0; n < roles.backward_end; ++n) {
    const ir::Node& node = graph.node(n);
    const ops::Rule& rule = frame.rules[n];
    int32_t batch = ir::kNone;
    for (size_t f = 0; f < rule.factors.size(); ++f) {
      if (!has_any(frame.node_factors[n][f], outermost)) continue;
      if (batch != ir::kNone) forbid(n, "pairs every sample with every other");
      batch = static_cast<int32_t>(f);
    }
    axis.repeats[n] = batch != ir::kNone;
    // What one turn has of a sum over a row, or of what windows see beside it, is another turn's.
    const bool looks_beyond =
        axis.repeats[n] && (rule.factors[batch].exchanges > 0 || rule.factors[batch].window.over >= 0);
    if (axis.repeats[n] && (!rule.splittable(batch) || looks_beyond))
      forbid(n,
             rule.why_whole.empty() ? "needs the whole batch" : "needs the whole batch: " + rule.why_whole);

    ir::NodeId source = ir::kNone;
    std::vector<int32_t> sums;
    bool late = false;
    for (size_t o = 0; o < node.operands.size(); ++o) {
      const Over state = over[node.operands[o]];
      if (state != Over::kSum && state != Over::kAfter) continue;
      source = origin[node.operands[o]];
      late = late || state == Over::kAfter;
      sums.push_back(static_cast<int32_t>(o));
    }
    const bool is_linear =
        !late && std::any_of(rule.linear.begin(), rule.linear.end(), [&](const std::vector<int32_t>& set) {
          return std::all_of(sums.begin(), sums.end(),
                             [&](int32_t o) { return std::find(set.begin(), set.end(), o) != set.end(); });
        });
    if (source != ir::kNone && axis.repeats[n])
      forbid(n, concat("uses what ", graph.node(source).op.str(), " adds up over the whole batch"));
    const bool all_integers = !node.operands.empty() &&
                              std::all_of(node.operands.begin(), node.operands.end(),
                                          [&](ir::ValueId o) { return o == ir::kNone || of_integers[o]; });
    for (size_t r = 0; r < node.results.size(); ++r) {
      const auto value = node.results[r];
      of_integers[value] = all_integers;
      bool has_batch = false;
      for (const auto& dim : frame.value_dims[value]) has_batch = has_batch || has_any(dim, outermost);
      if (source != ir::kNone) {
        over[value] = is_linear || rule.free ? Over::kSum : Over::kAfter;
        origin[value] = source;
      } else if (has_batch) {
        over[value] = Over::kPart;
      } else if (axis.repeats[n] && rule.combine[r][batch] == Combine::kSum &&
                 (all_integers || is_count(node, r))) {
        axis.ahead[value] = true;
      } else if (axis.repeats[n] && !is_count(node, r) && rule.combine[r][batch] != Combine::kSame) {
        const Combine how = rule.combine[r][batch];
        const bool adds = how == Combine::kSum || how == Combine::kMean || how == Combine::kWeighted;
        over[value] = adds ? Over::kSum : Over::kAfter;
        origin[value] = n;
      }
    }
  }
  return axis;
}

Frame frame_of_turn(const Frame& frame, const TimeAxis& axis, int32_t turns) {
  if (turns == 1) return frame;
  return frame.resized(axis.atoms[0], frame.atoms.size(axis.atoms[0]) / turns);
}

}  // namespace moai::plan
