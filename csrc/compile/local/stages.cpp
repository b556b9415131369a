#include "compile/local/stages.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "ir/error.h"
#include "plan/pipeline/walk.h"
#include "plan/roles.h"

namespace moai::compile {

namespace {

using ir::NodeId;
using ir::ValueId;
using plan::TaskKind;

// One group, whose task is a whole turn.
std::shared_ptr<const plan::Schedule> turns_in_line(int32_t turns) {
  auto schedule = std::make_shared<plan::Schedule>();
  schedule->micro_batches = turns;
  schedule->tasks.emplace_back();
  for (int32_t t = 0; t < turns; ++t) schedule->tasks[0].push_back({TaskKind::kForward, 0, t});
  return schedule;
}

// What a step updates lies where its new value is made; all else lies where it is read.
void hold_inputs(const ir::Graph& graph, Stages* stages) {
  std::vector<GroupSet> readers(graph.inputs().size(), 0), writers(graph.inputs().size(), 0);
  for (size_t n = 0; n < graph.nodes().size(); ++n) {
    for (const auto operand : graph.nodes()[n].operands) {
      if (operand != ir::kNone && graph.value(operand).producer == ir::kNone)
        readers[graph.value(operand).index] |= stages->groups_of_node(static_cast<NodeId>(n));
    }
  }
  for (const auto output : graph.outputs()) {
    const ValueId input = plan::updated_input(graph, output);
    if (input != ir::kNone && input != output)
      writers[graph.value(input).index] |= stages->groups_of_node(graph.value(output).producer);
  }
  for (size_t i = 0; i < readers.size(); ++i) {
    GroupSet& held = stages->of_input[i];
    if (held == 0) held = writers[i] != 0 ? writers[i] : readers[i];
    if (held == 0) held = Stages::one(0);
  }
}

// Cuts a planned step into stages.
class Cutter {
 public:
  Cutter(const plan::Step& step, const Loop& loop, const std::vector<int32_t>& begins, Stages* stages)
      : step_(step), graph_(step.graph), loop_(loop), begins_(begins), stages_(*stages) {}

  void run() {
    stages_.of_node.assign(graph_.nodes().size(), 0);
    for (size_t v = 0; v < graph_.values().size(); ++v) {
      if (loop_.is_ahead(static_cast<ValueId>(v))) make_everywhere(static_cast<ValueId>(v));
    }
    for (NodeId n = 0; n < static_cast<NodeId>(graph_.nodes().size()); ++n) {
      if (stages_.of_node[n] != Stages::kEverywhere) stages_.of_node[n] = stage_of(n);
    }
    set_kinds();
    hold_inputs(graph_, &stages_);
  }

 private:
  int32_t last() const { return static_cast<int32_t>(begins_.size()) - 1; }
  bool is_forward(NodeId n) const { return n < step_.roles.forward_end; }

  // Sums that are had ahead are of integers, and small: each group makes its own.
  void make_everywhere(ValueId value) {
    const NodeId id = graph_.value(value).producer;
    if (!is_target_weight(graph_, value)) return run_everywhere(id);
    const auto& operands = graph_.node(id).operands;
    for (size_t o = 1; o < operands.size(); ++o) have_everywhere(operands[o]);
  }

  void have_everywhere(ValueId value) {
    if (value == ir::kNone) return;
    const auto& v = graph_.value(value);
    if (v.producer != ir::kNone) return run_everywhere(v.producer);
    stages_.of_input[v.index] = stages_.all();
  }

  void run_everywhere(NodeId id) {
    if (stages_.of_node[id] == Stages::kEverywhere) return;
    stages_.of_node[id] = Stages::kEverywhere;
    for (const auto operand : graph_.node(id).operands) have_everywhere(operand);
  }

  // Where forward's stretches are, but never before what a node reads is there.
  int32_t stage_of(NodeId n) const {
    const int32_t stretch = step_.stretch_of_node[n];
    if (stretch == ir::kNone && !step_.roles.in_loop(n)) return stage_of_largest_operand(n);
    int32_t stage = last();
    if (stretch != ir::kNone) {
      const auto after = std::upper_bound(begins_.begin(), begins_.end(), stretch);
      stage = static_cast<int32_t>(after - begins_.begin()) - 1;
    }
    if (!step_.roles.in_loop(n)) return stage;
    for (const auto operand : graph_.node(n).operands) {
      const NodeId producer = staged_producer(operand);
      if (producer == ir::kNone) continue;
      if (is_forward(n)) {
        stage = std::max(stage, stages_.of_node[producer]);
      } else if (!is_forward(producer)) {
        stage = std::min(stage, stages_.of_node[producer]);
      }
    }
    return stage;
  }

  int32_t stage_of_largest_operand(NodeId n) const {
    int32_t stage = last();
    int64_t most = -1;
    for (const auto operand : graph_.node(n).operands) {
      const NodeId producer = staged_producer(operand);
      if (producer == ir::kNone || graph_.type(operand).bytes() <= most) continue;
      most = graph_.type(operand).bytes();
      stage = stages_.of_node[producer];
    }
    return stage;
  }

  // What makes a value on one group alone; kNone: nothing does.
  NodeId staged_producer(ValueId value) const {
    if (value == ir::kNone) return ir::kNone;
    const NodeId producer = graph_.value(value).producer;
    const bool is_staged = producer != ir::kNone && stages_.of_node[producer] != Stages::kEverywhere;
    return is_staged ? producer : ir::kNone;
  }

  // Weights' gradients may run late, apart, if only those of their own stage read them.
  void set_kinds() {
    stages_.kinds.assign(graph_.nodes().size(), TaskKind::kForward);
    std::vector<bool> is_needed(graph_.nodes().size(), false);
    for (NodeId n = step_.roles.backward_end; n-- > step_.roles.forward_end;) {
      const bool late = stages_.schedule->split && step_.is_weight_gradient[n] && !is_needed[n];
      stages_.kinds[n] = late ? TaskKind::kWeight : TaskKind::kBackward;
      for (const auto operand : graph_.node(n).operands) {
        const NodeId producer = staged_producer(operand);
        if (producer == ir::kNone) continue;
        if (!late || stages_.of_node[producer] != stages_.of_node[n]) is_needed[producer] = true;
      }
    }
  }

  const plan::Step& step_;
  const ir::Graph& graph_;
  const Loop& loop_;
  const std::vector<int32_t>& begins_;
  Stages& stages_;
};

}  // namespace

GroupSet Stages::groups_of_node(NodeId node) const {
  return of_node[node] == kEverywhere ? all() : one(group_of(of_node[node]));
}

GroupSet Stages::groups_of_value(const ir::Graph& graph, ValueId value) const {
  const auto& v = graph.value(value);
  return v.producer == ir::kNone ? of_input[v.index] : groups_of_node(v.producer);
}

Stages Stages::none(const ir::Graph& graph, const Loop& loop) {
  Stages stages;
  stages.of_node.assign(graph.nodes().size(), 0);
  stages.kinds.assign(graph.nodes().size(), TaskKind::kForward);
  stages.of_input.assign(graph.inputs().size(), one(0));
  if (loop.turns > 1) stages.schedule = turns_in_line(loop.turns);
  return stages;
}

Stages Stages::planned(const plan::Step& step, const Loop& loop, int32_t groups,
                       const std::vector<int32_t>& begins, std::shared_ptr<const plan::Schedule> schedule) {
  Stages stages;
  stages.groups = groups;
  stages.of_input.assign(step.graph.inputs().size(), 0);
  stages.schedule = std::move(schedule);
  Cutter(step, loop, begins, &stages).run();
  if (loop.turns == 1) stages.schedule = nullptr;
  return stages;
}

Stages Stages::in_order(const ir::Graph& graph, int32_t groups, std::vector<int32_t> of_node,
                        std::vector<GroupSet> held) {
  Stages stages;
  stages.groups = groups;
  stages.of_node = std::move(of_node);
  stages.kinds.assign(graph.nodes().size(), TaskKind::kForward);
  stages.of_input = std::move(held);
  hold_inputs(graph, &stages);
  return stages;
}

std::vector<Crossing> find_crossings(const ir::Graph& graph, const Stages& stages, const Loop& loop,
                                     const Phases& phases) {
  std::map<std::pair<ValueId, int32_t>, Crossing> found;  // by value and group
  if (stages.groups == 1 || stages.schedule == nullptr) return {};
  for (NodeId n = 0; n < static_cast<NodeId>(graph.nodes().size()); ++n) {
    const int32_t to = stages.of_node[n];
    if (phases.of_node[n] == Phase::kAfter || to == Stages::kEverywhere) continue;
    for (const auto operand : graph.node(n).operands) {
      const NodeId producer = operand == ir::kNone ? ir::kNone : graph.value(operand).producer;
      if (producer == ir::kNone || loop.is_ahead(operand)) continue;
      const int32_t from = stages.of_node[producer];
      if (from == Stages::kEverywhere || from == to) continue;
      const bool is_made_later = stages.kinds[n] == TaskKind::kForward
                                     ? from > to
                                     : stages.kinds[producer] != TaskKind::kForward && from < to;
      if (is_made_later) {
        throw Error(moai::Phase::kCompile,
                    concat("stage ", to, " of the pipeline needs what stage ", from, " makes later"))
            .detail(ir::print(graph, n));
      }
      if (stages.group_of(from) == stages.group_of(to)) continue;
      const Crossing one{operand, from, to, n, phases.of_node[producer] == Phase::kOnce};
      const auto [it, is_new] = found.emplace(std::make_pair(operand, stages.group_of(to)), one);
      if (is_new) continue;
      // Of a group's stages, the first to run takes it in: forward ascends, and backward descends.
      int32_t& first = it->second.to;
      const bool runs_earlier = to > from ? first < from || to < first : first < from && to > first;
      if (runs_earlier) first = to;
    }
  }
  std::vector<Crossing> all;
  for (const auto& [key, crossing] : found) all.push_back(crossing);
  return all;
}

TaskClocks::TaskClocks(const Stages& stages, const std::vector<Crossing>& crossings) {
  if (crossings.empty()) return;
  std::map<std::pair<TaskKind, int32_t>, std::vector<int32_t>> senders;  // of each turn, by receiver
  for (const auto& crossing : crossings) {
    if (!crossing.once) senders[{crossing.kind(), crossing.to}].push_back(crossing.from);
  }
  const auto groups = static_cast<size_t>(stages.groups);
  known_.resize(groups);
  std::map<Key, std::vector<int32_t>> ended;  // what a task knew at its end
  plan::walk(*stages.schedule, [&](int32_t group, size_t index, const plan::Task& task) {
    std::vector<int32_t> clock(groups, 0);
    if (index > 0) clock = known_[group][index - 1];
    clock[group] = static_cast<int32_t>(index);
    for (const auto from : senders[{task.kind, task.stage}]) {
      const auto& theirs = ended.at({task.kind, from, task.micro_batch});
      for (size_t g = 0; g < groups; ++g) clock[g] = std::max(clock[g], theirs[g]);
    }
    known_[group].push_back(clock);
    ++clock[group];
    const Key key{task.kind, task.stage, task.micro_batch};
    positions_[key] = {static_cast<size_t>(group), static_cast<int32_t>(index)};
    ended[key] = std::move(clock);
  });
}

bool TaskClocks::is_over(int32_t group, size_t at, const plan::Task& other) const {
  const Position& position = positions_.at({other.kind, other.stage, other.micro_batch});
  return known_[group][at][position.group] > position.index;
}

}  // namespace moai::compile
