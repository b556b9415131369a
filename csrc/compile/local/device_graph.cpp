#include "compile/local/device_graph.h"

#include <algorithm>
#include <limits>
#include <map>
#include <unordered_map>
#include <utility>

#include "compile/local/convert.h"
#include "compile/local/local_op.h"
#include "compile/local/message.h"
#include "compile/local/turn_sums.h"
#include "ir/error.h"
#include "ops/traits.h"

namespace moai::compile {

// Note [Where a device's values are]
// A value of the whole graph may be on a device under several placements, each a value of the local graph. It
// is brought to a placement once, but for weights: what is gathered of them is gathered again in each turn
// and in backward, so that no device holds all of them at a time.
//
// Note [Order on a device]
// Within the loop a device runs the tasks of its group, one after the other: without a pipeline each is a
// whole turn. All else runs in the order of the whole graph, which all devices go through: each runs the
// nodes of its group, and a value that another group needs leaves, and arrives, when its first reader's turn
// has come. So messages outside of the loop cannot wait for each other in a circle, and there one channel is
// enough.

namespace {

using ir::NodeId;
using ir::ValueId;
using plan::Placement;
using K = plan::Split::Kind;

constexpr int64_t kInOrder = 0;  // the channel of what is not in the loop

class DeviceGraph {
 public:
  DeviceGraph(const SplitStep& step, Place place, int32_t group)
      : step_(step),
        whole_(step.graph),
        place_(std::move(place)),
        group_(group),
        b_(step.stages.groups > 1 ? 1 : 0),
        at_(whole_.values().size()),
        in_turn_(static_cast<size_t>(step.loop.turns)) {
    for (size_t v = 0; v < whole_.values().size(); ++v) {
      const auto value = static_cast<ValueId>(v);
      has_.push_back(step_.loop.is_ahead(value) ? step_.stages.all() : step_.stages.of_value(whole_, value));
    }
    for (const auto value : step_.phases.carried) carry(value);
  }

  ir::Graph run() {
    b_.graph().set_numbers(whole_.numbers());
    for (const auto input : whole_.inputs()) take_input(input);
    const NodeId last_raising = find_last_raising();
    const bool loops = step_.loop.turns > 1;
    if (loops) write_loop();
    const bool raises_here = last_raising != ir::kNone && (!loops || phase(last_raising) == Phase::kAfter);
    if (!raises_here) write_barrier();
    for (NodeId n = 0; n < static_cast<NodeId>(whole_.nodes().size()); ++n) {
      if (loops && phase(n) != Phase::kAfter) continue;
      for (size_t o = 0; o < whole_.node(n).operands.size(); ++o) exchange(n, o);
      if (runs_here(n)) write(n);
      if (n == last_raising) write_barrier();
    }
    std::vector<ValueId> outputs;
    for (const auto output : whole_.outputs())
      outputs.push_back(is_here(output) ? kept(output) : nothing(output));
    mail_.finish(b_);
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

  Phase phase(NodeId node) const { return step_.phases.of_node[node]; }
  bool in_loop(ValueId value) const {
    return compile::in_loop(whole_, step_.frame, step_.loop, step_.phases, value);
  }
  bool is_ahead(ValueId value) const { return step_.loop.is_ahead(value); }

  bool runs_here(NodeId node) const { return (step_.stages.of_nodes(node) & Stages::one(group_)) != 0; }
  // Whether what the value is when the step begins, or ends, lies here.
  bool is_here(ValueId value) const {
    return (step_.stages.of_value(whole_, value) & Stages::one(group_)) != 0;
  }

  void take_input(ValueId input) {
    if (!is_here(input)) {
      b_.graph().add_input(ir::Type::contiguous(whole_.type(input).dtype, {0}));
      return;
    }
    at_[input].push_back({step_.produced(input), b_.graph().add_input(input_type(input)), kForever});
  }

  // In the place of an output that lies on other groups.
  ValueId nothing(ValueId output) { return b_.full(whole_.type(output).dtype, {0}, 0); }

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
      const auto id = static_cast<NodeId>(n);
      const bool raises = nodes[n].kind == ir::NodeKind::kOp && ops::traits(nodes[n].op).can_raise;
      const bool later = last == ir::kNone || phase(id) == Phase::kAfter || phase(last) != Phase::kAfter;
      if (raises && later) last = id;
    }
    return last;
  }

  // No device may write over an input while another can still fail: see runtime/run.h. What was sent so far
  // is received before it.
  void write_barrier() {
    mail_.finish(b_);
    ir::Node node;
    node.op = ir::Symbol::intern("moai.barrier");
    b_.graph().add_node(std::move(node), {});
  }

  // --- The loop -----------------------------------------------------------------------------------

  void write_loop() {
    write_sums_ahead();
    give_inputs();
    const plan::Schedule& schedule = *step_.stages.schedule;
    std::map<std::pair<int32_t, plan::TaskKind>, std::vector<NodeId>> work;
    for (NodeId n = 0; n < static_cast<NodeId>(whole_.nodes().size()); ++n) {
      const int32_t stage = step_.stages.of_node[n];
      if (phase(n) != Phase::kAfter && stage != Stages::kEverywhere && runs_here(n))
        work[{stage, step_.stages.kinds[n]}].push_back(n);
    }
    const auto& tasks = schedule.tasks[group_];
    for (size_t t = 0; t < tasks.size(); ++t) {
      const plan::Task& task = tasks[t];
      turn_ = task.micro_batch;
      for (const auto& crossing : step_.crossings) {
        if (crossing.to == task.stage && crosses(crossing, task)) receive(crossing);
      }
      mail_.finish(b_, [&](int64_t, int64_t tag) { return has_arrived(t, tag); });
      for (const auto n : work[{task.stage, task.kind}]) {
        if (phase(n) == Phase::kLoop || turn_ == 0) write(n);
      }
      for (size_t c = 0; c < step_.crossings.size(); ++c) {
        const auto& crossing = step_.crossings[c];
        if (crossing.from == task.stage && crosses(crossing, task)) send(c);
      }
    }
    turn_ = kNoTurn;
    mail_.finish(b_);
    for (const auto& crossing : step_.crossings) {
      if (crossing.once) has_[crossing.value] |= Stages::one(step_.stages.group_of(crossing.to));
    }
    sums_.finish(b_, [&](ValueId value, ValueId local) {
      at_[value].push_back({step_.produced(value), local, kForever});
    });
  }

  static bool crosses(const Crossing& crossing, const plan::Task& task) {
    return task.kind == crossing.kind() && (!crossing.once || task.micro_batch == 0);
  }

  // What the loop reads of inputs that lie on other groups.
  void give_inputs() {
    for (NodeId n = 0; n < static_cast<NodeId>(whole_.nodes().size()); ++n) {
      if (phase(n) == Phase::kAfter) continue;
      const auto& operands = whole_.node(n).operands;
      for (size_t o = 0; o < operands.size(); ++o) {
        if (operands[o] != ir::kNone && whole_.value(operands[o]).producer == ir::kNone) exchange(n, o);
      }
    }
    mail_.finish(b_);
  }

  // A message is known by its crossing and turn.
  int64_t tag_of(size_t crossing) const { return static_cast<int64_t>(crossing) * step_.loop.turns + turn_; }
  bool has_arrived(size_t task, int64_t tag) const {
    const auto& crossing = step_.crossings[static_cast<size_t>(tag / step_.loop.turns)];
    return step_.clocks.is_over(group_, task,
                                {crossing.kind(), crossing.to, static_cast<int32_t>(tag % step_.loop.turns)});
  }

  int64_t channel_of(const Crossing& crossing) const {
    return 1 + int64_t{crossing.from} * step_.stages.schedule->stages() + crossing.to;
  }

  void send(size_t c) {
    const Crossing& crossing = step_.crossings[c];
    mail_.send(b_, ready_to_send(crossing.value, wanted_by(crossing)), step_.stages.group_of(crossing.to),
               channel_of(crossing), tag_of(c));
  }

  void receive(const Crossing& crossing) {
    const Placement& placement = wanted_by(crossing);
    const ValueId local = mail_.receive(b_, type_of(crossing.value, placement),
                                        step_.stages.group_of(crossing.from), channel_of(crossing));
    lists(crossing.value).push_back({placement, local, kForever});
  }

  // It travels as its first reader wants it.
  const Placement& wanted_by(const Crossing& crossing) const {
    const auto& operands = whole_.node(crossing.reader).operands;
    const auto at = std::find(operands.begin(), operands.end(), crossing.value) - operands.begin();
    return step_.assignment.nodes[crossing.reader].operands[at];
  }

  // --- Outside of the loop ------------------------------------------------------------------------

  // Brings an operand to the groups that run the node and do not have it. Inputs travel as they lie, for
  // whoever gathers them does so when it needs them.
  void exchange(NodeId id, size_t o) {
    const ValueId value = whole_.node(id).operands[o];
    if (value == ir::kNone) return;
    const GroupSet missing = step_.stages.of_nodes(id) & ~has_[value];
    if (missing == 0) return;
    int32_t from = 0;
    while ((has_[value] & Stages::one(from)) == 0) ++from;
    const bool is_input = whole_.value(value).producer == ir::kNone;
    const Placement& placement = is_input ? step_.produced(value) : step_.assignment.nodes[id].operands[o];
    for (int32_t to = 0; to < step_.stages.groups; ++to) {
      if ((missing & Stages::one(to)) == 0) continue;
      if (from == group_) mail_.send(b_, ready_to_send(value, placement), to, kInOrder);
      if (to != group_) continue;
      const ir::Type type = is_input ? input_type(value) : type_of(value, placement);
      at_[value].push_back({placement, mail_.receive(b_, type, from, kInOrder), kForever});
    }
    has_[value] |= missing;
  }

  ValueId ready_to_send(ValueId value, const Placement& placement) {
    const ValueId local = bring(value, placement);
    return whole_.type(value).is_dense() ? as_it_is_kept(value, local) : b_.contiguous(local);
  }

  // Of what was sent so.
  ir::Type type_of(ValueId value, const Placement& placement) const {
    const ir::Type& whole = whole_.type(value);
    ir::Dims sizes = sizes_of(parts_of(place_, plan::leaf_sizes(step_.frame, value), placement));
    return whole.is_dense() ? dense_like(whole, std::move(sizes))
                            : ir::Type::contiguous(whole.dtype, std::move(sizes));
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
            phase(id) == Phase::kLoop ? step_.loop.turn(turn_) : Turn{}};
  }

  void write(NodeId id) {
    const ir::Node& node = whole_.node(id);
    const bool loops = phase(id) == Phase::kLoop;
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
      const plan::Option& option = step_.assignment.nodes[id];
      const auto result = static_cast<size_t>(whole_.value(value).index);
      ValueId sum = ir::kNone;
      for (turn_ = 0; turn_ < step_.loop.turns; ++turn_) {
        const ValueId part = is_target_weight(whole_, value) ? target_weight(id) : part_ahead(id, result);
        sum = sum == ir::kNone ? part : b_.pointwise("aten.add.Tensor", {sum, part}, {int64_t{1}});
      }
      at_[value].push_back({option.results[result], sum, kForever});
    }
    turn_ = kNoTurn;
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
  int32_t group_;
  LocalBuilder b_;
  Mail mail_;
  std::vector<GroupSet> has_;  // by value, outside of turns: the groups that have it by now
  int32_t turn_ = kNoTurn;
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

SplitStep::SplitStep(const ir::Graph& g, const plan::Frame& f, const plan::Mesh& m, const plan::Assignment& a,
                     const Loop& l, const Stages& s)
    : graph(g),
      frame(f),
      mesh(m),
      assignment(a),
      loop(l),
      stages(s),
      phases(find_phases(g, f, l)),
      crossings(find_crossings(g, s, l, phases)),
      clocks(s, crossings) {}

ir::Graph write_device_graph(const SplitStep& step, Place place, int32_t group) {
  return DeviceGraph(step, std::move(place), group).run();
}

}  // namespace moai::compile
