#include "compile/local/device_graph.h"

#include <algorithm>
#include <map>
#include <unordered_map>
#include <utility>

#include "compile/local/local_op.h"
#include "compile/local/local_values.h"
#include "compile/local/message.h"
#include "compile/local/turn_sums.h"
#include "ir/error.h"
#include "ir/view_nodes.h"
#include "ops/traits.h"

namespace moai::compile {

// Note [Order on a device]
// Within the loop a device runs the tasks of its group, one after the other: without a pipeline each is a
// whole turn. All else runs in the order of the whole graph, which all devices go through: each runs the
// nodes of its group, and a value that another group needs leaves, and arrives, when its first reader's turn
// has come. So messages outside of the loop cannot wait for each other in a circle, and there one channel is
// enough.

// Note [When sums meet]
// A sum over devices is taken where its last term has been made, as its first reader wants it, and not when
// that reader's turn has come: so it is on its way while the rest of backward runs (compile/waits.h), and of
// what is scattered only a part stays. A sum whose first reader is another stage's is left to that message.
// Placements alone decide, so all devices of a group do it at the same node.

namespace {

using ir::NodeId;
using ir::ValueId;
using plan::Placement;

constexpr int64_t kInOrder = 0;  // the channel of what is not in the loop

bool is_sum(const Placement& placement) {
  return std::any_of(placement.begin(), placement.end(),
                     [](const plan::Split& split) { return split.kind == plan::Split::Kind::kPartial; });
}

class DeviceGraph {
 public:
  DeviceGraph(const SplitStep& step, Place place, int32_t group)
      : step_(step),
        whole_(step.graph),
        place_(std::move(place)),
        group_(group),
        b_(step.stages.groups > 1 ? 1 : 0),
        values_(step, place_, b_) {
    for (size_t v = 0; v < whole_.values().size(); ++v) {
      const auto value = static_cast<ValueId>(v);
      has_.push_back(step_.loop.is_ahead(value) ? step_.stages.all()
                                                : step_.stages.groups_of_value(whole_, value));
    }
    for (const auto value : step_.phases.carried) carry(value);
    find_first_reads();
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
  static constexpr int32_t kNoTurn = LocalValues::kNoTurn;

  Phase phase(NodeId node) const { return step_.phase(node); }
  bool is_ahead(ValueId value) const { return step_.loop.is_ahead(value); }

  bool runs_here(NodeId node) const { return (step_.stages.groups_of_node(node) & Stages::one(group_)) != 0; }
  // Whether what the value is when the step begins, or ends, lies here.
  bool is_here(ValueId value) const {
    return (step_.stages.groups_of_value(whole_, value) & Stages::one(group_)) != 0;
  }

  void take_input(ValueId input) {
    if (!is_here(input)) {
      b_.graph().add_input(ir::Type::contiguous(whole_.type(input).dtype, {0}));
      return;
    }
    values_.add(input, step_.produced(input), b_.graph().add_input(values_.input_type(input)));
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
    bool has_batch = false;
    for (size_t f = 0; f < factors.size(); ++f) {
      if (turn.leaf_of(factors[f]) < 0) continue;
      sums_.carry(whole_, value, rule.combine[v.index][f], turn.count);
      has_batch = true;
    }
    if (!has_batch) sums_.carry(whole_, value, ops::Combine::kSum, turn.count);  // handed on
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
    const auto& axes = step_.mesh.axes;
    const bool is_alone =
        std::all_of(axes.begin(), axes.end(), [](const plan::Axis& a) { return a.size == 1; });
    if (is_alone && step_.stages.groups == 1) return;
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
      values_.set_turn(task.micro_batch);
      for (const auto& crossing : step_.crossings) {
        if (crossing.to == task.stage && crosses(crossing, task)) receive(crossing);
      }
      mail_.finish(b_, [&](int64_t, int64_t tag) { return has_arrived(t, tag); });
      for (const auto n : work[{task.stage, task.kind}]) {
        if (phase(n) == Phase::kLoop || task.micro_batch == 0) write(n);
      }
      for (size_t c = 0; c < step_.crossings.size(); ++c) {
        const auto& crossing = step_.crossings[c];
        if (crossing.from == task.stage && crosses(crossing, task)) send(c);
      }
    }
    values_.set_turn(kNoTurn);
    mail_.finish(b_);
    for (const auto& crossing : step_.crossings) {
      if (crossing.once) has_[crossing.value] |= Stages::one(step_.stages.group_of(crossing.to));
    }
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
  int64_t tag_of(size_t crossing) const {
    return static_cast<int64_t>(crossing) * step_.loop.turns + values_.turn();
  }
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
    mail_.send(b_, values_.bring_to_send(crossing.value, wanted_by(crossing)),
               step_.stages.group_of(crossing.to), channel_of(crossing), tag_of(c));
  }

  void receive(const Crossing& crossing) {
    const Placement& placement = wanted_by(crossing);
    const ValueId local = mail_.receive(b_, values_.type_of(crossing.value, placement),
                                        step_.stages.group_of(crossing.from), channel_of(crossing));
    values_.add(crossing.value, placement, local);
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
    const GroupSet missing = step_.stages.groups_of_node(id) & ~has_[value];
    if (missing == 0) return;
    int32_t from = 0;
    while ((has_[value] & Stages::one(from)) == 0) ++from;
    const bool is_input = whole_.value(value).producer == ir::kNone;
    const Placement& placement = is_input ? step_.produced(value) : step_.assignment.nodes[id].operands[o];
    for (int32_t to = 0; to < step_.stages.groups; ++to) {
      if ((missing & Stages::one(to)) == 0) continue;
      if (from == group_) mail_.send(b_, values_.bring_to_send(value, placement), to, kInOrder);
      if (to != group_) continue;
      const ir::Type type = is_input ? values_.input_type(value) : values_.type_of(value, placement);
      values_.add(value, placement, mail_.receive(b_, type, from, kInOrder));
    }
    has_[value] |= missing;
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
            phase(id) == Phase::kLoop ? step_.loop.turn(values_.turn()) : Turn{}};
  }

  void write(NodeId id) {
    const ir::Node& node = whole_.node(id);
    const bool loops = phase(id) == Phase::kLoop;
    if (!node.results.empty() && values_.has(node.results[0])) return;  // written ahead
    const plan::Option& option = step_.assignment.nodes[id];
    b_.set_source(node);
    values_.set_section(step_.section(id));
    const auto results = write_local_op(b_, local_op(id), operands_of(id));
    std::vector<ValueId> summed;  // over all turns, of which this is the last
    for (size_t r = 0; r < results.size(); ++r) {
      const ValueId value = node.results[r];
      if (is_ahead(value)) continue;
      values_.add(value, option.results[r], results[r]);
      if (!loops) continue;
      const auto joined = joined_.find(value);
      if (joined != joined_.end()) joined->second.push_back(values_.bring(value, step_.wanted(value)));
      const ValueId weight = r + 1 < results.size() ? results[r + 1] : ir::kNone;
      const ValueId sum = sums_.add(b_, value, results[r], weight);
      if (sum == ir::kNone) continue;
      values_.add_whole(value, option.results[r], sum);
      summed.push_back(value);
    }
    const Reads& reads = phase(id) == Phase::kAfter ? first_reads_after_ : first_reads_;
    for (const ValueId value : node.results) meet(value, reads);
    const int32_t turn = values_.turn();
    values_.set_turn(kNoTurn);
    for (const ValueId value : summed) meet(value, first_reads_after_);
    values_.set_turn(turn);
  }

  // By value: who reads it first, and as which operand.
  struct Read {
    NodeId node = ir::kNone;
    size_t operand = 0;
  };
  using Reads = std::vector<Read>;

  // See Note [When sums meet]. Parts that are seen through a view first meet behind it.
  void meet(ValueId value, const Reads& reads) {
    const Read& read = reads[value];
    if (read.node == ir::kNone || !runs_here(read.node) || is_ahead(value)) return;
    const Placement& from = step_.produced(value);
    const Placement& to = step_.assignment.nodes[read.node].operands[read.operand];
    const ir::Node& reader = whole_.node(read.node);
    const bool is_view = ir::step_of(reader.op, reader.args).has_value();
    if (is_view && from == to && is_sum(from)) {
      write(read.node);
    } else if (only_sums(from, to)) {
      values_.bring(value, to);
    }
  }

  void find_first_reads() {
    first_reads_.resize(whole_.values().size());
    first_reads_after_.resize(whole_.values().size());
    for (NodeId n = 0; n < static_cast<NodeId>(whole_.nodes().size()); ++n) {
      const auto& operands = whole_.node(n).operands;
      auto& reads = phase(n) == Phase::kAfter ? first_reads_after_ : first_reads_;
      for (size_t o = 0; o < operands.size(); ++o) {
        if (operands[o] != ir::kNone && reads[operands[o]].node == ir::kNone) reads[operands[o]] = {n, o};
      }
    }
  }

  // As the node's option asks for them.
  std::vector<ValueId> operands_of(NodeId id) {
    const ir::Node& node = whole_.node(id);
    std::vector<ValueId> operands;
    for (size_t o = 0; o < node.operands.size(); ++o) {
      const Placement& to = step_.assignment.nodes[id].operands[o];
      const bool is_memory = node.kind != ir::NodeKind::kOp && o == 0;  // which a strided region is of
      operands.push_back(is_memory ? values_.bring_dense(node.operands[o], to)
                                   : values_.bring_to(node, node.operands[o], to));
    }
    return operands;
  }

  // Sums over the batch that turns use are had before the first one (plan::TimeAxis::ahead).
  void write_sums_ahead() {
    for (size_t v = 0; v < step_.loop.ahead.size(); ++v) {
      const auto value = static_cast<ValueId>(v);
      if (!is_ahead(value)) continue;
      const NodeId id = whole_.value(value).producer;
      const plan::Option& option = step_.assignment.nodes[id];
      const auto result = static_cast<size_t>(whole_.value(value).index);
      ValueId sum = ir::kNone;
      for (int32_t turn = 0; turn < step_.loop.turns; ++turn) {
        values_.set_turn(turn);
        const ValueId part = is_target_weight(whole_, value) ? target_weight(id) : part_ahead(id, result);
        sum = sum == ir::kNone ? part : b_.pointwise("aten.add.Tensor", {sum, part}, {int64_t{1}});
      }
      values_.add_whole(value, option.results[result], sum);
    }
    values_.set_turn(kNoTurn);
  }

  // Of a loss by targets, without the loss.
  ValueId target_weight(NodeId id) {
    const ir::Node& node = whole_.node(id);
    const plan::Option& option = step_.assignment.nodes[id];
    write_ahead(node.operands[1]);
    const ValueId target = values_.bring(node.operands[1], option.operands[1]);
    const bool weighted = node.operands.size() > 2;
    if (weighted) write_ahead(node.operands[2]);
    const ValueId weights = weighted ? values_.bring(node.operands[2], option.operands[2]) : ir::kNone;
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
    if (producer == ir::kNone || values_.has(value)) return;
    for (const auto operand : whole_.node(producer).operands) {
      if (operand != ir::kNone) write_ahead(operand);
    }
    write(producer);
  }

  // An output, as the step leaves it behind.
  ValueId kept(ValueId output) {
    const Placement wanted = step_.wanted(output);
    const auto joined = joined_.find(output);
    const bool in_turns = joined != joined_.end() && whole_.value(output).producer != ir::kNone;
    return in_turns ? values_.joined(output, wanted, joined->second) : values_.bring_dense(output, wanted);
  }

  const SplitStep& step_;
  const ir::Graph& whole_;
  Place place_;
  int32_t group_;
  LocalBuilder b_;
  LocalValues values_;
  Mail mail_;
  std::vector<GroupSet> has_;  // by value, outside of turns: the groups that have it by now
  TurnSums sums_;
  Reads first_reads_, first_reads_after_;                     // while turns go on, and after the last one
  std::unordered_map<ValueId, std::vector<ValueId>> joined_;  // by value: what each turn left behind
};

}  // namespace

ir::Graph write_device_graph(const SplitStep& step, Place place, int32_t group) {
  return DeviceGraph(step, std::move(place), group).run();
}

}  // namespace moai::compile
