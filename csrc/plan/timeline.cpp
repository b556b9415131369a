#include "plan/timeline.h"

#include <algorithm>
#include <set>
#include <unordered_map>
#include <utility>

#include "ops/host_copies.h"
#include "plan/live_bytes.h"
#include "plan/moves.h"

namespace moai::plan {

Spent& Spent::operator+=(const Spent& other) {
  seconds += other.seconds;
  compute += other.compute;
  communicate += other.communicate;
  exposed += other.exposed;
  host += other.host;
  exposed_host += other.exposed_host;
  return *this;
}

Timeline::Move Timeline::move(ir::ValueId value, const Placement& to, double seconds) {
  const int32_t number = static_cast<int32_t>(targets_.size());
  is_moved_[value] = true;
  return {seconds, targets_.emplace(std::make_pair(value, to), number).first->second, value};
}

Timeline::Timeline(const Step& step, const Frame& turn, const Mesh& mesh, const Assignment& assignment,
                   Gathers gathers)
    : step_(step),
      mesh_(mesh),
      assignment_(assignment),
      gathers_(gathers),
      has_copies_(std::find(step.on_host.begin(), step.on_host.end(), true) != step.on_host.end()),
      is_moved_(step.graph.values().size(), false) {
  const auto nodes = static_cast<ir::NodeId>(step.graph.nodes().size());
  before_.resize(nodes);
  after_.resize(nodes);
  Moves moves(step, turn, mesh);
  size_t edge = 0;
  for (ir::NodeId n = 0; n < nodes; ++n) {
    const ir::Node& node = step.graph.node(n);
    const bool merged = step.is_bucketed(n);
    for (size_t o = 0; o < node.operands.size(); ++o) {
      const auto value = node.operands[o];
      const auto producer = step.graph.value(value).producer;
      const Placement& to = assignment.nodes[n].operands[o];
      const double seconds = moves.seconds(edge++, assignment.placement(step.graph, value), to, merged);
      if (seconds <= 0) continue;
      const bool is_gradient = merged && producer != ir::kNone && step.roles.in_loop(producer);
      Move one = move(value, to, seconds);
      one.each_turn = is_gradient && step.hands_on[n];
      (is_gradient ? after_[producer] : before_[n]).push_back(one);
    }
  }
  for (const auto output : step.graph.outputs()) {
    const auto input = updated_input(step.graph, output);
    const auto producer = step.graph.value(output).producer;
    if (input == ir::kNone || producer == ir::kNone) continue;
    const Placement& to = assignment.placement(step.graph, input);
    const double seconds = convert_seconds(step.graph.type(output), leaf_sizes(turn, output),
                                           assignment.placement(step.graph, output), to, mesh, true);
    if (seconds <= 0) continue;
    after_[producer].push_back(move(output, to, seconds));
    after_[producer].back().of_update = true;
  }
}

Spent Timeline::run(const std::vector<ir::NodeId>& nodes, bool reduces) const {
  Spent spent;
  double computed = 0, communicated = 0;  // when each stream is done so far
  double copied = 0;                      // and the link to the host
  std::unordered_map<ir::ValueId, double> brought;
  double last_wait = 0, wait_before = 0;      // when the last two nodes that waited for a weight started
  std::unordered_map<int32_t, double> there;  // by target
  std::unordered_map<ir::ValueId, double> made;
  const auto start = [&](const Move& one, double ready) {
    const auto [at, is_new] = there.emplace(one.to, 0);
    if (!is_new) return at->second;
    communicated = std::max(communicated, ready) + one.seconds;
    spent.communicate += one.seconds;
    return at->second = communicated;
  };
  for (const auto n : nodes) {
    if (has_copies_ && ops::is_host_copy(step_.graph.node(n).op)) {
      copied = std::max(copied, computed) + seconds(n);
      spent.host += seconds(n);
      brought[step_.graph.node(n).results[0]] = copied;
      continue;
    }
    double begin = computed;
    for (size_t o = 0; has_copies_ && o < step_.graph.node(n).operands.size(); ++o) {
      const auto when = brought.find(step_.graph.node(n).operands[o]);
      if (when != brought.end()) begin = std::max(begin, when->second);
    }
    spent.exposed_host += begin - computed;
    const double ready = begin;
    bool waits_for_weight = false;
    for (const auto& one : before_[n]) {
      const auto it = made.find(one.value);
      const bool is_weight = it == made.end();
      waits_for_weight = waits_for_weight || is_weight;
      begin = std::max(begin, start(one, is_weight ? wait_before : it->second));
    }
    if (!step_.roles.in_loop(
            n)) {  // what backward has sent on its way is there before the optimizer reads it
      const auto& operands = step_.graph.node(n).operands;
      for (size_t o = 0; o < operands.size(); ++o) {
        if (!is_moved_[operands[o]]) continue;
        const auto target = targets_.find({operands[o], assignment_.nodes[n].operands[o]});
        if (target == targets_.end()) continue;
        const auto when = there.find(target->second);
        if (when != there.end()) begin = std::max(begin, when->second);
      }
    }
    if (waits_for_weight) {
      wait_before = last_wait;
      last_wait = begin;
    }
    spent.exposed += begin - ready;
    computed = begin + seconds(n);
    const double sending = assignment_.nodes[n].sending;  // computing waits for it
    spent.compute += seconds(n) - sending;
    spent.communicate += sending;
    spent.exposed += sending;
    for (const auto result : step_.graph.node(n).results) {
      if (is_moved_[result]) made[result] = computed;
    }
    for (const auto& one : after_[n]) {
      if (one.of_update && gathers_ == Gathers::kAhead) {
        spent.ahead += there.emplace(one.to, 0).second ? one.seconds : 0;
      } else if (reduces || one.each_turn) {
        start(one, computed);
      }
    }
  }
  spent.exposed += std::max(computed, communicated) - computed;
  const double overlap = mesh_.cluster->device(0).overlap;
  spent.exposed += (1 - overlap) * std::max(0.0, spent.communicate - spent.exposed);
  spent.exposed_host += std::max(0.0, copied - std::max(computed, communicated));
  spent.exposed_host +=
      (1 - mesh_.cluster->device(0).host_overlap) * std::max(0.0, spent.host - spent.exposed_host);
  spent.seconds = spent.compute + spent.exposed + spent.exposed_host;
  return spent;
}

void Timeline::settle(double forward_seconds, Spent* spent) const {
  const double ahead = std::exchange(spent->ahead, 0);
  const double waits = ahead - mesh_.cluster->device(0).overlap * std::min(ahead, forward_seconds);
  spent->communicate += ahead;
  spent->exposed += waits;
  spent->seconds += waits;
}

namespace {

// Adds what a value takes to what it is; see Bytes.
struct Ledger {
  const Step& step;
  const Frame& turn;
  const Mesh& mesh;
  const Assignment& assignment;

  double bytes(ir::ValueId value) const {
    return local_bytes(step.graph.type(value), leaf_sizes(turn, value),
                       assignment.placement(step.graph, value), mesh);
  }

  void add_input(size_t input, Bytes* to) const {
    const double taken = bytes(step.graph.inputs()[input]);
    switch (step.roles.of_input[input]) {
      case InputRole::kWeight: to->weights += taken; break;
      case InputRole::kState: to->states += taken; break;
      case InputRole::kData: to->data += taken; break;
    }
  }

  void add_node(ir::NodeId n, Bytes* to) const {
    for (const auto result : step.graph.node(n).results) {
      if (step.base[result] != result) continue;
      const auto last = step.last_use[result];
      if (step.on_host[result]) {
        to->host += bytes(result);
      } else if (n < step.roles.forward_end && last >= step.roles.forward_end &&
                 last < step.roles.backward_end)
        to->activations += bytes(result);
      if (step.is_sum(result)) to->gradients += bytes(result);
    }
  }
};

void borrow_weights(const Step& step, const Ledger& ledger, std::vector<Stretch>* line) {
  std::set<std::pair<ir::ValueId, int32_t>> known;
  for (ir::NodeId n = 0; n < step.roles.backward_end; ++n) {
    const int32_t here = step.stretch_of_node[n];
    for (const auto operand : step.graph.node(n).operands) {
      const ir::ValueId weight = step.base[operand];
      if (here == ir::kNone || step.graph.value(weight).producer != ir::kNone) continue;
      const auto input = static_cast<size_t>(step.graph.value(weight).index);
      const int32_t from = step.stretch_of_input[input];
      if (step.roles.of_input[input] != InputRole::kWeight || from == ir::kNone || from == here) continue;
      if (known.emplace(weight, here).second)
        (*line)[here].borrowed.push_back({weight, from, ledger.bytes(weight)});
    }
  }
}

}  // namespace

std::vector<Stretch> stretches(const Step& step, const Frame& turn, const Mesh& mesh,
                               const Assignment& assignment, Sends sends, Gathers gathers) {
  const Timeline timeline(step, turn, mesh, assignment, gathers);
  const Ledger ledger{step, turn, mesh, assignment};
  const auto count = static_cast<size_t>(step.stretches());
  std::vector<std::vector<ir::NodeId>> forward(count), backward(count), update(count);
  std::vector<double> weight(count, 0.0);
  std::vector<Stretch> out(count);
  const auto nodes = static_cast<ir::NodeId>(step.graph.nodes().size());
  for (ir::NodeId n = 0; n < nodes; ++n) {
    const int32_t stretch = std::max(step.stretch_of_node[n], 0);
    if (n < step.roles.forward_end) {
      forward[stretch].push_back(n);
    } else if (step.roles.in_loop(n)) {
      backward[stretch].push_back(n);
      if (step.is_weight_gradient[n]) weight[stretch] += timeline.seconds(n);
    } else {
      update[stretch].push_back(n);
    }
    ledger.add_node(n, &out[stretch].bytes);
  }
  for (size_t i = 0; i < step.graph.inputs().size(); ++i)
    ledger.add_input(i, &out[std::max(step.stretch_of_input[i], 0)].bytes);
  borrow_weights(step, ledger, &out);

  // Beside what stays, of each stretch the most that any of its nodes sees.
  Terms once;
  const std::vector<double> live = live_bytes(step, turn, mesh, once, assignment);
  double still = 0;
  for (const auto& stretch : out) still += stretch.bytes.weights + stretch.bytes.states + stretch.bytes.data;
  std::vector<double> kept(static_cast<size_t>(nodes) + 1,
                           0.0);  // activations and gradients alive before a node
  for (ir::NodeId n = 0; n < nodes; ++n) {
    for (const auto result : step.graph.node(n).results) {
      const auto last = step.last_use[result];
      const bool crosses = (n < step.roles.forward_end && last >= step.roles.forward_end) ||
                           (n >= step.roles.forward_end && last >= step.roles.backward_end);
      if (step.base[result] != result || step.on_host[result] || !crosses || !step.roles.in_loop(n)) continue;
      kept[n] += ledger.bytes(result);
      if (last + 1 < nodes) kept[last + 1] -= ledger.bytes(result);
    }
  }
  double now = 0;
  for (ir::NodeId n = 0; n < nodes; ++n) {
    now += kept[n];
    Bytes& most = out[std::max(step.stretch_of_node[n], 0)].bytes;
    const double works = live[n] - still - now;
    if (works <= most.scratch + most.working) continue;
    most.scratch = std::min(works, assignment.nodes[n].scratch_bytes);
    most.working = works - most.scratch;
  }
  for (size_t s = 0; s < count; ++s) {
    const Spent there = timeline.run(forward[s], false);
    const Spent back = timeline.run(backward[s], false);
    const Spent reduced = timeline.run(backward[s], true);
    Spent updated = timeline.run(update[s], true);
    timeline.settle(there.seconds, &updated);
    out[s].forward = there.seconds;
    out[s].weight = std::min(weight[s], back.seconds);
    out[s].backward = back.seconds - out[s].weight;
    out[s].update = updated.seconds + std::max(0.0, reduced.seconds - back.seconds);
    out[s].communicate = there.communicate + back.communicate;
    out[s].exposed = there.exposed + back.exposed;
    out[s].host = there.host + back.host;
    out[s].exposed_host = there.exposed_host + back.exposed_host;
    out[s].update_communicate = updated.communicate + reduced.communicate - back.communicate;
    out[s].update_exposed = updated.exposed + std::max(0.0, reduced.exposed - back.exposed);
  }
  // What later stretches of forward read crosses every cut on its way. (What backward alone reads does not.)
  std::vector<int32_t> last(step.graph.values().size(), ir::kNone);
  for (ir::NodeId n = 0; n < step.roles.forward_end; ++n) {
    for (const auto operand : step.graph.node(n).operands)
      last[step.base[operand]] = std::max(last[step.base[operand]], step.stretch_of_node[n]);
  }
  for (ir::NodeId n = 0; n < step.roles.forward_end; ++n) {
    for (const auto result : step.graph.node(n).results) {
      if (step.base[result] != result) continue;
      double bytes = ledger.bytes(result), gathered = 0;
      const Placement& placement = assignment.placement(step.graph, result);
      for (size_t a = 0; sends == Sends::kInParts && a < placement.size(); ++a) {
        if (placement[a].kind != Split::Kind::kReplicate) continue;
        gathered += plan::seconds(*mesh.cluster, Collective::kAllGather, mesh.axes[a].group, bytes);
        bytes /= mesh.axes[a].size;
      }
      for (int32_t s = step.stretch_of_node[n]; s < last[result]; ++s) {
        out[s].cut_bytes += bytes;
        out[s].cut_seconds += gathered;
      }
    }
  }
  return out;
}

Whole whole(const Step& step, const Frame& turn, const Mesh& mesh, const Terms& terms,
            const Assignment& assignment, Gathers gathers) {
  const Timeline timeline(step, turn, mesh, assignment, gathers);
  const Ledger ledger{step, turn, mesh, assignment};
  std::vector<ir::NodeId> all, repeated;
  double forward = 0;  // seconds of a turn
  Whole out;
  const auto nodes = static_cast<ir::NodeId>(step.graph.nodes().size());
  for (ir::NodeId n = 0; n < nodes; ++n) {
    all.push_back(n);
    if (n < step.roles.forward_end) forward += timeline.seconds(n);
    if (step.time.repeats[n] && step.roles.in_loop(n)) repeated.push_back(n);
    ledger.add_node(n, &out.bytes);
  }
  for (size_t i = 0; i < step.graph.inputs().size(); ++i) ledger.add_input(i, &out.bytes);
  Spent last = timeline.run(all, true);
  timeline.settle(forward, &last);
  if (terms.turns > 1) {
    const Spent turn_spent = timeline.run(repeated, false);
    for (int32_t t = 1; t < terms.turns; ++t) out.spent += turn_spent;
  }
  out.spent += last;
  // What lies at the fullest moment: of gradients and activations no more than there are by then.
  double rest = std::max(0.0, assignment.bytes - out.bytes.weights - out.bytes.states - out.bytes.data);
  out.bytes.activations = std::min(out.bytes.activations, rest);
  rest -= out.bytes.activations;
  out.bytes.gradients = std::min(out.bytes.gradients, rest);
  rest -= out.bytes.gradients;
  out.bytes.scratch = std::min(assignment.scratch_bytes, rest);
  out.bytes.working = rest - out.bytes.scratch;
  return out;
}

}  // namespace moai::plan
