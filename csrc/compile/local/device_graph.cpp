#include "compile/local/device_graph.h"

#include <algorithm>
#include <limits>
#include <unordered_map>
#include <utility>

#include "compile/local/convert.h"
#include "compile/local/local_op.h"
#include "compile/local/turn_sums.h"
#include "ir/error.h"
#include "ops/traits.h"

namespace moai::compile {

// Note [Where a device's values are]
// A value of the whole graph may be on a device under several placements, each a value of the local graph. It
// is brought to a placement once, but for weights: what is gathered of them is gathered again in each turn
// and in backward, so that no device holds all of them at a time.
//
// Note [Phases]
// With turns, a node runs in each (kLoop), once in the first one where it is needed (kOnce), or after the
// last one (kAfter), because it reads what turns add up or because it is the optimizer's.

namespace {

using ir::NodeId;
using ir::ValueId;
using plan::Placement;
using K = plan::Split::Kind;

enum class Phase : uint8_t { kLoop, kOnce, kAfter };

class DeviceGraph {
 public:
  DeviceGraph(const SplitStep& step, Place place)
      : step_(step),
        whole_(step.graph),
        place_(std::move(place)),
        at_(whole_.values().size()),
        in_turn_(static_cast<size_t>(step.loop.turns)) {}

  ir::Graph run() {
    b_.graph().set_numbers(whole_.numbers());
    for (const auto input : whole_.inputs())
      at_[input].push_back({step_.produced(input), b_.graph().add_input(input_type(input)), kForever});
    find_phases();
    const auto nodes = static_cast<NodeId>(whole_.nodes().size());
    const NodeId last_raising = find_last_raising();
    const bool loops = step_.loop.turns > 1;
    if (loops) {
      write_sums_ahead();
    } else if (last_raising == ir::kNone) {
      write_barrier();
    }
    for (turn_ = 0; turn_ < step_.loop.turns; ++turn_) {
      for (NodeId n = 0; n < nodes; ++n) {
        if (phase_[n] == Phase::kAfter) continue;
        if (phase_[n] == Phase::kLoop || turn_ == 0) write(n);
        if (!loops && n == last_raising) write_barrier();
      }
    }
    turn_ = kNoTurn;
    sums_.finish(b_, [&](ValueId value, ValueId local) {
      at_[value].push_back({step_.produced(value), local, kForever});
    });
    const bool raises_late = last_raising != ir::kNone && phase_[last_raising] == Phase::kAfter;
    if (loops && !raises_late) write_barrier();
    for (NodeId n = 0; n < nodes; ++n) {
      if (phase_[n] != Phase::kAfter) continue;
      write(n);
      if (n == last_raising) write_barrier();
    }
    std::vector<ValueId> outputs;
    for (const auto output : whole_.outputs()) outputs.push_back(kept(output));
    b_.graph().set_outputs(std::move(outputs));
    return std::move(b_.graph());
  }

 private:
  struct There {
    Placement placement;
    ValueId local;
    int32_t scope;  // where it may be used: see scope()
  };
  static constexpr int32_t kForever = -1;
  static constexpr int32_t kNoTurn = -1;

  // --- Phases -------------------------------------------------------------------------------------

  bool in_loop(ValueId value) const {
    const auto& v = whole_.value(value);
    if (v.producer == ir::kNone) return step_.has_turns(value);
    return phase_[v.producer] == Phase::kLoop && !is_ahead(value);
  }

  void find_phases() {
    phase_.assign(whole_.nodes().size(), Phase::kOnce);
    if (step_.loop.turns == 1) return;
    for (size_t n = 0; n < phase_.size(); ++n) {
      const ir::Node& node = whole_.node(static_cast<NodeId>(n));
      if (step_.loop.repeats[n]) {
        phase_[n] = Phase::kLoop;
        continue;
      }
      bool late = static_cast<NodeId>(n) >= step_.loop.end;
      for (const auto operand : node.operands) {
        if (operand == ir::kNone) continue;
        const auto producer = whole_.value(operand).producer;
        late = late || in_loop(operand) || (producer != ir::kNone && phase_[producer] == Phase::kAfter);
      }
      if (!late) continue;
      phase_[n] = Phase::kAfter;
      for (const auto operand : node.operands) {
        if (operand != ir::kNone && in_loop(operand)) carry(operand);
      }
    }
    for (const auto output : whole_.outputs()) {
      if (whole_.value(output).producer != ir::kNone && in_loop(output)) carry(output);
    }
  }

  // Turns leave this value behind.
  void carry(ValueId value) {
    const auto& v = whole_.value(value);
    if (v.producer == ir::kNone || step_.has_turns(value)) {
      joined_[value];
      return;
    }
    const ops::Rule& rule = step_.frame.rules[v.producer];
    const auto& factors = step_.frame.node_factors[v.producer];
    const Turn turn = step_.loop.turn();
    for (size_t f = 0; f < factors.size(); ++f) {
      if (turn.leaf_of(factors[f]) >= 0) sums_.carry(whole_, value, rule.combine[v.index][f], turn.count);
    }
  }

  NodeId find_last_raising() const {
    const auto& nodes = whole_.nodes();
    NodeId last = ir::kNone;
    for (size_t n = 0; n < nodes.size(); ++n) {
      const bool raises = nodes[n].kind == ir::NodeKind::kOp && ops::traits(nodes[n].op).can_raise;
      const bool later = last == ir::kNone || phase_[n] == Phase::kAfter || phase_[last] != Phase::kAfter;
      if (raises && later) last = static_cast<NodeId>(n);
    }
    return last;
  }

  // No device may write over an input while another can still fail: see runtime/run.h.
  void write_barrier() {
    ir::Node node;
    node.op = ir::Symbol::intern("moai.barrier");
    b_.graph().add_node(std::move(node), {});
  }

  // --- Nodes --------------------------------------------------------------------------------------

  LocalOp local_op(NodeId id) const {
    return {whole_,
            whole_.node(id),
            step_.frame.rules[id],
            step_.frame,
            step_.frame.node_factors[id],
            step_.assignment.nodes[id],
            place_,
            phase_[id] == Phase::kLoop ? step_.loop.turn(turn_) : Turn{}};
  }

  void write(NodeId id) {
    const ir::Node& node = whole_.node(id);
    const bool loops = phase_[id] == Phase::kLoop;
    if (!node.results.empty() && is_there(node.results[0])) return;  // written ahead
    const plan::Option& option = step_.assignment.nodes[id];
    b_.set_source(node);
    section_ = static_cast<int32_t>(node.section);
    if (id >= step_.loop.end && step_.loop.turns > 1) section_ = 2;
    const auto results = write_local_op(b_, local_op(id), operands_of(id));
    for (size_t r = 0; r < results.size(); ++r) {
      const ValueId value = node.results[r];
      if (is_ahead(value)) continue;
      lists(value).push_back({option.results[r], results[r], kForever});
      if (!loops) continue;
      const auto joined = joined_.find(value);
      if (joined != joined_.end()) joined->second.push_back(bring(value, step_.wanted(value)));
      const ValueId weight = r + 1 < results.size() ? results[r + 1] : ir::kNone;
      sums_.add(b_, value, results[r], weight);
    }
  }

  // As the node's option asks for them.
  std::vector<ValueId> operands_of(NodeId id) {
    const ir::Node& node = whole_.node(id);
    std::vector<ValueId> operands;
    for (size_t o = 0; o < node.operands.size(); ++o) {
      const ValueId there = bring(node.operands[o], step_.assignment.nodes[id].operands[o]);
      const bool is_memory = node.kind != ir::NodeKind::kOp && o == 0;  // which a strided region is of
      operands.push_back(is_memory ? as_it_is_kept(node.operands[o], there)
                                   : as_kernels_take_it(node, node.operands[o], there));
    }
    return operands;
  }

  bool is_there(ValueId value) { return !lists(value).empty(); }

  // Sums over the batch that turns use are had before the first one (plan::TimeAxis::ahead).
  void write_sums_ahead() {
    for (size_t v = 0; v < step_.loop.ahead.size(); ++v) {
      const auto value = static_cast<ValueId>(v);
      if (!is_ahead(value)) continue;
      const NodeId id = whole_.value(value).producer;
      const ir::Node& node = whole_.node(id);
      const plan::Option& option = step_.assignment.nodes[id];
      const auto result = static_cast<size_t>(whole_.value(value).index);
      const bool is_loss = result == 1 && node.op.str().rfind("aten.nll_loss", 0) == 0;
      ValueId sum = ir::kNone;
      for (turn_ = 0; turn_ < step_.loop.turns; ++turn_) {
        const ValueId part = is_loss ? target_weight(id) : part_ahead(id, result);
        sum = sum == ir::kNone ? part : b_.pointwise("aten.add.Tensor", {sum, part}, {int64_t{1}});
      }
      at_[value].push_back({option.results[result], sum, kForever});
    }
    turn_ = 0;
  }

  bool is_ahead(ValueId value) const {
    return step_.loop.turns > 1 && step_.loop.ahead[static_cast<size_t>(value)];
  }

  // Of a loss by targets, without the loss.
  ValueId target_weight(NodeId id) {
    const ir::Node& node = whole_.node(id);
    const plan::Option& option = step_.assignment.nodes[id];
    write_ahead(node.operands[1]);
    const ValueId target = bring(node.operands[1], option.operands[1]);
    const bool weighted = node.operands.size() > 2;
    if (weighted) write_ahead(node.operands[2]);
    const ValueId weights = weighted ? bring(node.operands[2], option.operands[2]) : ir::kNone;
    b_.set_source(node);
    return write_target_weight(b_, local_op(id), target, weights);
  }

  // What this turn adds to a result, computed here and not in the loop.
  ValueId part_ahead(NodeId id, size_t result) {
    for (const auto operand : whole_.node(id).operands) write_ahead(operand);
    b_.set_source(whole_.node(id));
    return write_local_op(b_, local_op(id), operands_of(id))[result];
  }

  // Writes what a value comes from, before its place in the order.
  void write_ahead(ValueId value) {
    const auto producer = whole_.value(value).producer;
    if (producer == ir::kNone || is_there(value)) return;
    for (const auto operand : whole_.node(producer).operands) {
      if (operand != ir::kNone) write_ahead(operand);
    }
    write(producer);
  }

  // --- Values -------------------------------------------------------------------------------------

  // Where the value is found now.
  std::vector<There>& lists(ValueId value) {
    if (turn_ == kNoTurn || step_.loop.turns == 1 || !in_loop(value)) return at_[value];
    auto& here = in_turn_[turn_][value];
    if (here.empty() && whole_.value(value).producer == ir::kNone)
      here.push_back({step_.produced(value), slice_of_turn(value), kForever});
    return here;
  }

  // Of a gathered weight: the turn and the section in which it was gathered.
  int32_t scope() const { return (turn_ == kNoTurn ? step_.loop.turns : turn_) * 3 + section_; }

  // The value as `to` has it: converted from where it lies at the least cost, if it does not lie there yet.
  ValueId bring(ValueId value, const Placement& to) {
    const auto sizes = plan::leaf_sizes(step_.frame, value);
    double least = std::numeric_limits<double>::infinity();
    const There* best = nullptr;
    auto& there = lists(value);
    for (const auto& place : there) {
      if (place.scope != kForever && place.scope != scope()) continue;
      if (place.placement == to) return place.local;
      const double cost = plan::convert_seconds(whole_.type(value), sizes, place.placement, to, step_.mesh);
      if (cost >= least) continue;
      least = cost;
      best = &place;
    }
    if (best == nullptr) {
      const auto producer = whole_.value(value).producer;
      Error error(moai::Phase::kCompile,
                  concat("the plan reduces %", value, " otherwise than by a sum, and asks for a sum"));
      if (producer != ir::kNone) error.detail(ir::print(whole_, producer));
      throw Error(error);
    }
    const Placement from = best->placement;
    const ValueId converted = convert(b_, place_, best->local, whole_.type(value), sizes, from, to,
                                      reductions(value), weight_of(value));
    const bool is_weight = whole_.value(value).producer == ir::kNone && !step_.has_turns(value);
    lists(value).push_back({to, converted, is_weight && gathers(from, to) ? scope() : kForever});
    return converted;
  }

  static bool gathers(const Placement& from, const Placement& to) {
    for (size_t a = 0; a < from.size(); ++a) {
      if (from[a].kind == K::kShard && to[a].kind == K::kReplicate) return true;
    }
    return false;
  }

  // How a value of a node is reduced, by axis.
  std::vector<Reduction> reductions(ValueId value) const {
    const auto& v = whole_.value(value);
    if (v.producer == ir::kNone) return {};
    const auto& choices = step_.assignment.nodes[v.producer].choices;
    std::vector<Reduction> all(choices.size());
    for (size_t a = 0; a < choices.size(); ++a) {
      if (choices[a].kind != plan::AxisChoice::Kind::kFactor) continue;
      const auto atom = step_.frame.node_factors[v.producer][choices[a].factor][choices[a].leaf];
      all[a].how = step_.frame.rules[v.producer].combine[v.index][choices[a].factor];
      all[a].size = step_.frame.atoms.size(atom);
      for (size_t outer = 0; outer <= a; ++outer) {
        const bool same = choices[outer].kind == choices[a].kind &&
                          choices[outer].factor == choices[a].factor &&
                          choices[outer].leaf == choices[a].leaf;
        if (same) all[a].axes.push_back(static_cast<int64_t>(outer));
      }
    }
    return all;
  }

  // What a mean over parts is weighted by: the node's next result, as the node left it.
  ValueId weight_of(ValueId value) {
    const auto& v = whole_.value(value);
    if (v.producer == ir::kNone) return ir::kNone;
    const auto& results = whole_.node(v.producer).results;
    const auto next = static_cast<size_t>(v.index) + 1;
    if (next >= results.size()) return ir::kNone;
    const auto& there = lists(results[next]);
    return there.empty() ? ir::kNone : there.front().local;
  }

  // A part cut out of a dense value is not dense. Views and pointwise ops do not mind; others may count on
  // what they were recorded with, and get a copy, one for all of them.
  ValueId as_kernels_take_it(const ir::Node& node, ValueId whole, ValueId local) {
    const bool minds = node.op.str().rfind("moai.", 0) != 0 && !ops::traits(node.op).pointwise;
    if (!minds || !whole_.type(whole).is_dense() || b_.type(local).is_dense()) return local;
    const auto [it, is_new] = dense_.emplace(local, ir::kNone);
    if (is_new) it->second = b_.dense(local, memory_order(whole_.type(whole)));
    return it->second;
  }

  // Dense, in the order that the whole has.
  ValueId as_it_is_kept(ValueId whole, ValueId local) {
    const ir::Type& type = whole_.type(whole);
    if (!type.is_dense()) return local;
    return b_.dense(local, memory_order(type));
  }

  // --- Turns --------------------------------------------------------------------------------------

  ir::Type input_type(ValueId input) const {
    const ir::Type& whole = whole_.type(input);
    Placement placement = step_.produced(input);
    const auto leaves = with_turns(step_.frame, input, step_.loop, &placement);
    ir::Dims sizes = sizes_of(parts_of(place_, leaves, placement));
    return sizes == whole.sizes ? whole : dense_like(whole, std::move(sizes));
  }

  // The dim that turns divide, and how many elements a turn has in it inside and outside of the turns' atom.
  struct Turned {
    int64_t dim = -1;
    int64_t outer = 1;
    int64_t inner = 1;
  };
  Turned turned(ValueId value, const Placement& placement) const {
    const Turn any = step_.loop.turn();
    const auto parts = parts_of(place_, plan::leaf_sizes(step_.frame, value), placement);
    Turned found;
    for (size_t d = 0; d < parts.size(); ++d) {
      const int64_t leaf = any.leaf_of(step_.frame.value_dims[value][d]);
      if (leaf < 0) continue;
      found.dim = static_cast<int64_t>(d);
      for (size_t k = 0; k < parts[d].size(); ++k)
        (static_cast<int64_t>(k) < leaf ? found.outer : found.inner) *= parts[d][k].length;
    }
    return found;
  }

  // What this turn has of an input.
  ValueId slice_of_turn(ValueId input) {
    const Turned t = turned(input, step_.produced(input));
    ValueId x = at_[input].front().local;
    if (t.outer == 1) return b_.slice(x, t.dim, turn_ * t.inner, t.inner);
    ir::Dims open = b_.type(x).sizes;
    ir::Dims merged = open;
    open[t.dim] = t.inner;
    open.insert(open.begin() + t.dim, {t.outer, step_.loop.turns});
    merged[t.dim] = t.outer * t.inner;
    return b_.reshape(b_.slice(b_.reshape(x, open), t.dim + 1, turn_, 1), merged);
  }

  // An output, as the step leaves it behind.
  ValueId kept(ValueId output) {
    const auto joined = joined_.find(output);
    if (joined == joined_.end() || whole_.value(output).producer == ir::kNone)
      return as_it_is_kept(output, bring(output, step_.wanted(output)));
    const Turned t = turned(output, step_.wanted(output));
    std::vector<ValueId> parts;
    for (const ValueId part : joined->second) {
      ir::Dims open = b_.type(part).sizes;
      open[t.dim] = t.inner;
      open.insert(open.begin() + t.dim, {t.outer, 1});
      parts.push_back(b_.reshape(part, open));
    }
    ir::Dims merged = b_.type(joined->second[0]).sizes;
    merged[t.dim] *= step_.loop.turns;
    return as_it_is_kept(output, b_.reshape(b_.concatenate(parts, t.dim + 1), merged));
  }

  const SplitStep& step_;
  const ir::Graph& whole_;
  Place place_;
  LocalBuilder b_;
  std::vector<Phase> phase_;  // by node
  int32_t turn_ = 0;
  int32_t section_ = 0;
  std::vector<std::vector<There>> at_;  // by value; as it was produced first
  std::vector<std::unordered_map<ValueId, std::vector<There>>> in_turn_;  // by turn: what it has a part of
  TurnSums sums_;
  std::unordered_map<ValueId, std::vector<ValueId>> joined_;  // by value: what each turn left behind
  std::unordered_map<ValueId, ValueId> dense_;                // by local value that is not: its copy that is
};

}  // namespace

Placement SplitStep::wanted(ValueId output) const {
  const ValueId input = plan::updated_input(graph, output);
  if (input != ir::kNone) return produced(input);
  Placement placement = produced(output);
  for (auto& split : placement) {
    if (split.kind != K::kShard) split = {};
  }
  return placement;
}

bool SplitStep::has_turns(ValueId value) const {
  const Turn turn = loop.turn();
  const auto& dims = frame.value_dims[value];
  return std::any_of(dims.begin(), dims.end(), [&](const auto& dim) { return turn.leaf_of(dim) >= 0; });
}

ir::Graph write_device_graph(const SplitStep& step, Place place) {
  return DeviceGraph(step, std::move(place)).run();
}

}  // namespace moai::compile
