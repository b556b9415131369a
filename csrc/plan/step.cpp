#include "plan/step.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <tuple>
#include <utility>

#include "ops/host_copies.h"
#include "plan/prepare.h"
#include "plan/send_rows.h"

namespace moai::plan {

namespace {

// How far equal surroundings must reach for two nodes to get one choice.
constexpr int32_t kFoldRounds = 4;

void find_nodes_of_sums(Step& step) {
  step.is_of_sums = step.hands_on;
  for (auto n = step.roles.forward_end; n < step.roles.backward_end; ++n) {
    for (const auto operand : step.graph.node(n).operands) {
      const auto producer = step.graph.value(operand).producer;
      if (producer != ir::kNone && step.is_of_sums[producer] && !step.time.repeats[n])
        step.is_of_sums[n] = true;
    }
  }
}

// Views of what is handed on lie in that.
void find_own_bases(Step& step) {
  step.base = find_bases(step.graph, step.frame);
  std::vector<ir::ValueId> handed(step.base.size(), ir::kNone);  // by value: which of these it is a view of
  for (size_t n = 0; n < step.hands_on.size(); ++n) {
    const ir::Node& node = step.graph.nodes()[n];
    if (step.hands_on[n]) handed[node.results[0]] = node.results[0];
    for (const auto result : node.results) {
      for (const auto operand : node.operands) {
        if (handed[result] == ir::kNone && step.base[result] == step.base[operand])
          handed[result] = handed[operand];
      }
    }
  }
  for (size_t v = 0; v < handed.size(); ++v) {
    if (handed[v] != ir::kNone) step.base[v] = handed[v];
  }
}

void find_lifetimes(Step& step) {
  const ir::Graph& graph = step.graph;
  find_own_bases(step);
  step.last_use.assign(graph.values().size(), -1);
  const auto nodes = static_cast<ir::NodeId>(graph.nodes().size());
  for (ir::NodeId n = 0; n < nodes; ++n) {
    for (const auto operand : graph.node(n).operands) step.last_use[step.base[operand]] = n;
  }
  for (const auto output : graph.outputs()) step.last_use[step.base[output]] = nodes;
}

void find_what_is_on_host(Step& step) {
  step.on_host.assign(step.graph.values().size(), false);
  for (const auto& node : step.graph.nodes()) {
    if (node.op == ops::to_host()) step.on_host[node.results[0]] = true;
  }
}

void find_uses(Step& step) {
  const ir::Graph& graph = step.graph;
  std::vector<Use> found;  // by first appearance
  std::vector<int32_t> use_of_edge;
  std::map<std::tuple<int32_t, int32_t, int32_t, int32_t>, int32_t> number;
  const auto use = [&](ir::ValueId value, int32_t to, int32_t operand) {
    const auto& v = graph.value(value);
    const bool is_input = v.producer == ir::kNone;
    const int32_t from = is_input ? step.fold.of_input[v.index] : step.fold.of_node[v.producer];
    const int32_t result = is_input ? 0 : v.index;
    const auto [at, is_new] =
        number.emplace(std::make_tuple(from, result, to, operand), static_cast<int32_t>(found.size()));
    if (is_new) found.push_back({from, result, to, operand, 0, 0, value});
    return at->second;
  };
  for (size_t n = 0; n < graph.nodes().size(); ++n) {
    const auto& operands = graph.nodes()[n].operands;
    for (size_t o = 0; o < operands.size(); ++o) {
      use_of_edge.push_back(use(operands[o], step.fold.of_node[n], static_cast<int32_t>(o)));
      Use& one = found[use_of_edge.back()];
      ++(step.time.repeats[n] ? one.in_turn : one.once);
    }
  }
  for (const auto output : graph.outputs()) {
    const ir::ValueId input = updated_input(graph, output);
    if (input == ir::kNone || input == output) continue;
    ++found[use(output, step.fold.of_input[graph.value(input).index], Use::kUpdates)].once;
  }
  // Sorted, as `number` is.
  std::vector<int32_t> place(found.size());
  for (const auto& [key, at] : number) {
    place[at] = static_cast<int32_t>(step.uses.size());
    step.uses.push_back(found[at]);
  }
  for (const auto at : use_of_edge) step.use_of_edge.push_back(place[at]);
}

// Places nodes on the line of forward's stretches; see Step.
class Placer {
 public:
  // `original`: by node, of the recorded graph, whose forward ends before `recorded_end`.
  Placer(Step& step, const std::vector<ir::NodeId>& original, ir::NodeId recorded_end)
      : step_(step),
        graph_(step.graph),
        original_(original),
        recorded_end_(recorded_end),
        of_value_(graph_.values().size(), ir::kNone) {}

  void run() {
    step_.stretch_of_node.assign(graph_.nodes().size(), ir::kNone);
    place_forward();
    follows_.assign(graph_.nodes().size(), false);
    for (auto n = step_.roles.forward_end; n < static_cast<ir::NodeId>(graph_.nodes().size()); ++n) place(n);
    go_to_readers();
    for (const auto input : graph_.inputs()) step_.stretch_of_input.push_back(of_value_[input]);
    mark_weight_gradients();
  }

 private:
  int32_t stretch_at(ir::NodeId forward_node) const {
    const auto after = std::upper_bound(step_.cuts.begin(), step_.cuts.end(), forward_node,
                                        [](ir::NodeId n, const Cut& cut) { return n < cut.before; });
    return static_cast<int32_t>(after - step_.cuts.begin());
  }

  void place_forward() {
    std::vector<bool> has_many(graph_.values().size(), false);
    for (ir::NodeId n = 0; n < step_.roles.forward_end; ++n) {
      const int32_t stretch = stretch_at(original_[n]);
      set(n, stretch);
      for (const auto operand : graph_.node(n).operands) {
        if (graph_.value(operand).producer != ir::kNone) continue;
        has_many[operand] =
            has_many[operand] || (of_value_[operand] != ir::kNone && of_value_[operand] != stretch);
        of_value_[operand] = stretch;
      }
    }
    // What several stretches read (data, a tied weight) says nothing about its readers.
    for (const auto input : graph_.inputs()) {
      if (has_many[input]) of_value_[input] = ir::kNone;
    }
  }

  void place(ir::NodeId n) {
    const ir::NodeId old = original_[n];
    if (n < step_.roles.backward_end && is_repeated(n)) {
      set(n, stretch_at(old));
      return;
    }
    int32_t saved = ir::kNone, incoming = ir::kNone;
    for (const auto operand : graph_.node(n).operands) {
      const int32_t stretch = of_value_[operand];
      if (stretch == ir::kNone) continue;
      const auto producer = graph_.value(operand).producer;
      const bool is_gradient =
          producer != ir::kNone && producer >= step_.roles.forward_end && !is_repeated(producer);
      if (is_gradient) {
        incoming = lower(incoming, stretch);
      } else {
        saved = std::max(saved, stretch);
      }
    }
    // Elements of states lie where their weight does; what has neither is small and lies anywhere.
    set(n, saved != ir::kNone ? saved : incoming);
    follows_[n] = saved == ir::kNone;
    if (n < step_.roles.backward_end) return;
    for (const auto operand : graph_.node(n).operands) keep_beside(n, operand);
  }

  // An input lies with the first of the optimizer's nodes that reads it, where nothing else says.
  void keep_beside(ir::NodeId n, ir::ValueId operand) {
    if (graph_.value(operand).producer == ir::kNone && of_value_[operand] == ir::kNone)
      of_value_[operand] = step_.stretch_of_node[n];
  }

  // What only gradients place goes on to the earlier stretch that reads it, if what it is made of goes there
  // anyway: several views of a gradient cross a cut as one, and a bias has its sum where it lies. What of the
  // optimizer has no place yet (a count of steps) goes to its only reader.
  void go_to_readers() {
    const auto nodes = static_cast<ir::NodeId>(graph_.nodes().size());
    // The first stretch that reads what a value shows in backward, and the same of the optimizer too.
    std::vector<int32_t> in_turn(graph_.values().size(), ir::kNone), ever = in_turn;
    shown_.resize(graph_.values().size());
    std::iota(shown_.begin(), shown_.end(), 0);
    for (auto n = step_.roles.forward_end; n < nodes; ++n) {
      const ir::Node& node = graph_.node(n);
      if (step_.frame.rules[n].free && !node.operands.empty() && !step_.hands_on[n]) {
        for (const auto result : node.results) shown_[result] = shown_[node.operands[0]];
        continue;
      }
      for (const auto operand : node.operands) {
        if (n < step_.roles.backward_end) reads(n, shown_[operand], &in_turn);
        reads(n, shown_[operand], &ever);
      }
    }
    std::vector<int32_t> earliest(graph_.values().size(), ir::kNone), latest = earliest;  // by value
    for (ir::NodeId n = nodes; n-- > step_.roles.forward_end;) {
      const ir::Node& node = graph_.node(n);
      const bool turns = n < step_.roles.backward_end;
      const int32_t here = step_.stretch_of_node[n];
      int32_t from = ir::kNone, to = ir::kNone;
      for (const auto result : node.results) {
        from = lower(from, earliest[result]);
        to = std::max(to, latest[result]);
      }
      const bool has_none = here == ir::kNone && !turns && from == to;
      const bool follows = follows_[n] && to != ir::kNone && to < here;
      if (has_none || (follows && goes_anyway(node, turns ? in_turn : ever, to))) set(n, to);
      for (const auto operand : node.operands) {
        reads(n, operand, &earliest);
        latest[operand] = std::max(latest[operand], step_.stretch_of_node[n]);
        if (!turns) keep_beside(n, operand);
      }
    }
  }

  static int32_t lower(int32_t a, int32_t b) { return a == ir::kNone || (b != ir::kNone && b < a) ? b : a; }

  void reads(ir::NodeId n, ir::ValueId value, std::vector<int32_t>* earliest) const {
    (*earliest)[value] = lower((*earliest)[value], step_.stretch_of_node[n]);
  }

  // Whether all that a node is made of is read by that stretch, or one before, whatever becomes of the node.
  bool goes_anyway(const ir::Node& node, const std::vector<int32_t>& first, int32_t stretch) const {
    return std::all_of(node.operands.begin(), node.operands.end(), [&](ir::ValueId operand) {
      const int32_t there = first[shown_[operand]];
      return of_value_[operand] == ir::kNone || (there != ir::kNone && there <= stretch);
    });
  }

  // Of backward: it makes what forward had, or brings it back.
  bool is_repeated(ir::NodeId n) const { return original_[n] != ir::kNone && original_[n] < recorded_end_; }

  void set(ir::NodeId n, int32_t stretch) {
    step_.stretch_of_node[n] = stretch;
    for (const auto result : graph_.node(n).results) of_value_[result] = stretch;
  }

  // Backward from what earlier stretches need: the rest is for weights alone.
  void mark_weight_gradients() {
    std::vector<bool> is_needed(graph_.values().size(), false);
    step_.is_weight_gradient.assign(graph_.nodes().size(), false);
    for (auto n = step_.roles.backward_end; n-- > step_.roles.forward_end;) {
      const ir::Node& node = graph_.node(n);
      bool is_chain = is_repeated(n);
      for (const auto result : node.results) is_chain = is_chain || is_needed[result];
      step_.is_weight_gradient[n] = !is_chain;
      for (const auto operand : node.operands) {
        const int32_t from = of_value_[operand];
        const bool crosses = graph_.value(operand).producer >= step_.roles.forward_end && from != ir::kNone &&
                             step_.stretch_of_node[n] != ir::kNone && from > step_.stretch_of_node[n];
        if (is_chain || crosses) is_needed[operand] = true;
      }
    }
  }

  Step& step_;
  const ir::Graph& graph_;
  const std::vector<ir::NodeId>& original_;
  const ir::NodeId recorded_end_;
  std::vector<int32_t> of_value_;
  std::vector<bool> follows_;       // by node: only gradients say where it lies
  std::vector<ir::ValueId> shown_;  // by value: what it is a view of, behind forward
};

// `recorded`: the step that it is written from; null of that one itself.
Step finish(ir::Graph graph, Frame frame, const std::vector<ir::NodeId>& original, const Step* recorded,
            std::vector<bool> hands_on) {
  Step step;
  step.hands_on = std::move(hands_on);
  step.graph = std::move(graph);
  step.frame = std::move(frame);
  step.roles = find_roles(step.graph, step.frame);
  step.time = find_time_axis(step.graph, step.frame, step.roles);
  for (size_t n = 0; n < step.hands_on.size(); ++n)
    step.time.repeats[n] = step.time.repeats[n] || step.hands_on[n];
  find_nodes_of_sums(step);
  step.fold = fold(step.graph, step.frame, kFoldRounds);
  step.cuts = recorded != nullptr ? recorded->cuts : find_cuts(step.graph, step.frame);
  for (size_t n = 0; n < step.graph.nodes().size(); ++n)
    step.loop_ops += step.time.repeats[n] && !step.frame.rules[n].free;
  find_uses(step);
  find_lifetimes(step);
  find_what_is_on_host(step);
  Placer(step, original, recorded != nullptr ? recorded->roles.forward_end : step.roles.forward_end).run();
  return step;
}

Step as_recorded(ir::Graph graph) {
  Frame frame = make_frame(graph);
  std::vector<ir::NodeId> original(graph.nodes().size());
  for (size_t n = 0; n < original.size(); ++n) original[n] = static_cast<ir::NodeId>(n);
  const std::vector<bool> hands_on(graph.nodes().size(), false);
  return finish(std::move(graph), std::move(frame), original, nullptr, hands_on);
}

}  // namespace

Step make_step(const ir::Graph& given) { return as_recorded(prepare(given)); }

Step send_rows(const Step& step, double capacity) {
  return as_recorded(send_rows(step.graph, step.frame, capacity));
}

Step make_step(const Step& step, const Rewriting& rewriting) {
  const bool sends = rewriting.offload == Offload::kActivations;
  Rematerialised made = rematerialise(step.graph, step.frame, rewriting.recompute,
                                      sends ? Checkpoints::kAll : Checkpoints::kFew);
  Frame frame = make_frame(made.graph);
  if (sends) {
    Offloaded moved = offload_activations(made.graph, frame, step.cuts);
    for (auto& node : moved.original) node = made.original[node];
    frame = make_frame(moved.graph);
    made = {std::move(moved.graph), std::move(moved.original)};
  }
  std::vector<bool> hands_on(made.graph.nodes().size(), false);
  if (rewriting.gradients == Gradients::kAtOnce) {
    const Roles roles = find_roles(made.graph, frame);
    HandedOn handed = hand_on_gradients(made.graph, frame, roles, find_time_axis(made.graph, frame, roles));
    hands_on.clear();
    for (auto& node : handed.original) {
      hands_on.push_back(node == ir::kNone);
      if (node != ir::kNone) node = made.original[node];
    }
    frame = make_frame(handed.graph);
    made = {std::move(handed.graph), std::move(handed.original)};
  }
  return finish(std::move(made.graph), std::move(frame), made.original, &step, std::move(hands_on));
}

}  // namespace moai::plan
