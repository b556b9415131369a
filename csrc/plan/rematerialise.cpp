#include "plan/rematerialise.h"

#include <algorithm>
#include <limits>

#include "ir/error.h"
#include "ir/rewrite.h"
#include "ops/expert_rows.h"
#include "plan/op_cost.h"
#include "plan/roles.h"

namespace moai::plan {

namespace {

// FLOPs per byte up to which a node is bound by memory on every device there is.
constexpr double kCheapIntensity = 16;
// A cut may let so many times the bytes cross that the best one near it does.
constexpr double kCrossing = 1.05;

double bytes_of(const ir::Graph& graph, ir::ValueId value) {
  return static_cast<double>(graph.type(value).bytes());
}

class Chooser {
 public:
  Chooser(const ir::Graph& graph, const Frame& frame)
      : graph_(graph),
        frame_(frame),
        roles_(find_roles(graph, frame)),
        base_(find_bases(graph, frame)),
        kept_(graph.values().size(), false),
        again_(graph.nodes().size(), false) {
    for (ir::NodeId n = roles_.forward_end; n < roles_.backward_end; ++n) {
      if (graph.node(n).section != ir::Section::kBackward) continue;
      for (const auto operand : graph.node(n).operands) {
        if (is_forward(operand)) kept_[operand] = true;
      }
    }
    for (const auto output : graph.outputs()) {
      if (is_forward(output)) lasts_.push_back(base_[output]);
    }
  }

  // By node: computed again in backward.
  std::vector<bool> selective() {
    for (ir::NodeId n = roles_.forward_end; n-- > 0;) {
      if (!may_repeat(n)) continue;
      const ir::Node& node = graph_.node(n);
      double gain = 0, loss = 0;
      bool is_wanted = false;
      for (const auto result : node.results) {
        if (!kept_[result]) continue;
        is_wanted = true;
        gain += bytes_of(graph_, result);
      }
      if (!is_wanted) continue;
      for (const auto operand : node.operands) {
        if (is_forward(operand) && !is_kept(operand)) loss += bytes_of(graph_, base_[operand]);
      }
      const bool is_view = frame_.rules[n].free;
      if (!is_view && (!is_cheap(n) || loss > gain)) continue;
      again_[n] = true;
      for (const auto result : node.results) kept_[result] = false;
      for (const auto operand : node.operands) {
        if (is_forward(operand)) kept_[operand] = true;
      }
    }
    return again_;
  }

  // All that backward needs and that no cut of `cuts` keeps; the last stretch stays as it is, since its
  // backward comes at once.
  std::vector<bool> full(const std::vector<Cut>& cuts) {
    if (cuts.empty()) return again_;
    std::vector<bool> keep(graph_.values().size(), false);
    for (const auto value : lasts_) keep[value] = true;
    const auto last = last_uses();
    for (ir::NodeId n = 0; n < roles_.forward_end; ++n) {
      for (const auto result : graph_.node(n).results) {
        if (base_[result] == result && crosses(cuts, n, last[result])) keep[result] = true;
      }
    }
    for (ir::NodeId n = cuts.back().before; n-- > 0;) {
      const ir::Node& node = graph_.node(n);
      bool is_needed = false, is_saved = false;
      for (const auto result : node.results) {
        is_needed = is_needed || kept_[result];
        is_saved = is_saved || keep[result];
      }
      if (!is_needed || is_saved || !may_repeat(n)) continue;
      again_[n] = true;
      for (const auto operand : node.operands) {
        if (is_forward(operand)) kept_[operand] = true;
      }
    }
    return again_;
  }

  // Of the cuts those between which forward is computed again: they keep what crosses them, and backward
  // makes one stretch at a time.
  std::vector<Cut> choose(const std::vector<Cut>& all) const {
    // Prefix sums of what backward needs of each stretch between neighbouring cuts.
    std::vector<bool> is_kept_base(kept_.size(), false);
    for (size_t v = 0; v < kept_.size(); ++v) {
      if (kept_[v]) is_kept_base[base_[v]] = true;
    }
    std::vector<double> made(all.size() + 1, 0.0);
    size_t at = 0;
    for (ir::NodeId n = 0; n < roles_.forward_end; ++n) {
      while (at < all.size() && n >= all[at].before) ++at;
      for (const auto result : graph_.node(n).results) {
        if (is_kept_base[result]) made[at] += bytes_of(graph_, result);
      }
    }
    std::vector<Cut> best;
    double least = std::numeric_limits<double>::infinity();
    std::vector<double> limits;
    double sum = 0;
    for (const double bytes : made) limits.push_back(sum += bytes);
    // By the most that a stretch may make: stretches as long as that allows, from the front.
    for (const double limit : limits) {
      std::vector<Cut> chosen;
      double kept = 0, stretch = 0, largest = 0;
      for (size_t s = 0; s < made.size(); ++s) {
        if (s > 0 && stretch + made[s] > limit) {
          chosen.push_back(all[s - 1]);
          kept += all[s - 1].bytes;
          stretch = 0;
        }
        stretch += made[s];
        largest = std::max(largest, stretch);
      }
      if (kept + largest < least) {
        least = kept + largest;
        best = chosen;
      }
    }
    return best;
  }

  std::vector<Cut> cuts() const {
    // Bytes that cross before each node: what was made before and is used after, in forward.
    std::vector<double> change(static_cast<size_t>(roles_.forward_end) + 1, 0.0);
    const auto last = last_uses();
    for (ir::NodeId n = 0; n < roles_.forward_end; ++n) {
      for (const auto result : graph_.node(n).results) {
        if (base_[result] != result || last[result] <= n) continue;
        change[n + 1] += bytes_of(graph_, result);
        if (last[result] + 1 <= roles_.forward_end) change[last[result] + 1] -= bytes_of(graph_, result);
      }
    }
    std::vector<double> crossing(change.size(), 0.0);
    double now = 0;
    for (size_t n = 0; n < change.size(); ++n) crossing[n] = now += change[n];
    return narrow(crossing);
  }

 private:
  bool is_forward(ir::ValueId value) const {
    const auto producer = graph_.value(value).producer;
    return producer != ir::kNone && producer < roles_.forward_end;
  }

  bool is_kept(ir::ValueId value) const { return kept_[value] || kept_[base_[value]]; }

  // What writes in place, or feeds the optimizer as it is, is computed once.
  bool may_repeat(ir::NodeId n) const {
    const ir::Node& node = graph_.node(n);
    if (node.operands.empty() || node.kind != ir::NodeKind::kOp) return false;
    if (node.op == ops::expert_rows().assign) return false;  // it may end the step
    for (size_t r = 0; r < node.results.size(); ++r) {
      if (node.tied_operand(r) != ir::kNone) return false;
    }
    return true;
  }

  bool is_cheap(ir::NodeId n) const {
    if (ops::moves_rows(graph_.node(n).op)) return false;  // over the network
    return frame_.rules[n].free ||
           frame_.rules[n].flops < kCheapIntensity * ops::bytes_moved(graph_, n, frame_.rules[n]);
  }

  // By base: the last node of forward that uses it or a view of it.
  std::vector<ir::NodeId> last_uses() const {
    std::vector<ir::NodeId> last(graph_.values().size(), -1);
    for (ir::NodeId n = 0; n < roles_.forward_end; ++n) {
      for (const auto operand : graph_.node(n).operands) last[base_[operand]] = n;
    }
    return last;
  }

  // Whether what one node makes and another uses last crosses any of the cuts.
  static bool crosses(const std::vector<Cut>& cuts, ir::NodeId made, ir::NodeId used) {
    const auto behind = std::upper_bound(cuts.begin(), cuts.end(), made,
                                         [](ir::NodeId n, const Cut& cut) { return n < cut.before; });
    return behind != cuts.end() && used >= behind->before;
  }

  // The narrowest place between any two contractions, where about as little crosses as at the narrow ones of
  // this graph. At the loss next to nothing crosses, so the least of all says little.
  std::vector<Cut> narrow(const std::vector<double>& crossing) const {
    std::vector<Cut> places;
    for (ir::NodeId n = 1; n < roles_.forward_end; ++n) {
      if (places.empty() || is_contraction(graph_, n - 1, frame_.rules[n - 1])) {
        places.push_back({n, crossing[n]});
      } else if (crossing[n] < places.back().bytes) {
        places.back() = {n, crossing[n]};
      }
    }
    const auto crosses_nothing = [](const Cut& cut) { return cut.bytes <= 0; };
    places.erase(std::remove_if(places.begin(), places.end(), crosses_nothing), places.end());
    if (places.empty()) return places;
    std::vector<double> bytes;
    for (const auto& place : places) bytes.push_back(place.bytes);
    std::sort(bytes.begin(), bytes.end());
    const double most = kCrossing * bytes[bytes.size() / 8];
    places.erase(std::remove_if(places.begin(), places.end(), [&](const Cut& c) { return c.bytes > most; }),
                 places.end());
    return places;
  }

  const ir::Graph& graph_;
  const Frame& frame_;
  Roles roles_;
  std::vector<ir::ValueId> base_;
  std::vector<bool> kept_;          // by value: backward uses it
  std::vector<bool> again_;         // by node
  std::vector<ir::ValueId> lasts_;  // outputs made by forward
};

// Backward's copies of the marked nodes, each right before its first use.
class Repeat {
 public:
  Repeat(const ir::Graph& graph, const std::vector<bool>& again)
      : graph_(graph), again_(again), rewrite_(graph), copy_(graph.values().size(), ir::kNone) {}

  Rematerialised run() {
    for (size_t n = 0; n < graph_.nodes().size(); ++n) {
      const auto id = static_cast<ir::NodeId>(n);
      if (graph_.node(id).section != ir::Section::kBackward) {
        rewrite_.keep(id);
        continue;
      }
      ir::Node node = rewrite_.renamed(id);
      for (size_t o = 0; o < node.operands.size(); ++o)
        node.operands[o] = of_backward(graph_.node(id).operands[o]);
      rewrite_.keep(id, std::move(node));
    }
    for (size_t n = 0; n < graph_.nodes().size(); ++n) {
      for (const auto result : graph_.nodes()[n].results) note(rewrite_[result], static_cast<ir::NodeId>(n));
      for (const auto result : graph_.nodes()[n].results) note(copy_[result], static_cast<ir::NodeId>(n));
    }
    return {rewrite_.finish(), std::move(original_)};
  }

 private:
  void note(ir::ValueId made, ir::NodeId old) {
    if (made == ir::kNone) return;
    original_.resize(rewrite_.to().nodes().size(), ir::kNone);
    original_[rewrite_.to().value(made).producer] = old;
  }

  // A value as backward has it. Chains are as long as a stretch of forward is deep: no deeper than a layer or
  // two, so recursion will do.
  ir::ValueId of_backward(ir::ValueId value) {
    const auto producer = graph_.value(value).producer;
    if (producer == ir::kNone || !again_[producer]) return rewrite_[value];
    if (copy_[value] != ir::kNone) return copy_[value];
    ir::Node node = rewrite_.renamed(producer);
    const ir::Node& old = graph_.node(producer);
    for (size_t o = 0; o < node.operands.size(); ++o) node.operands[o] = of_backward(old.operands[o]);
    node.section = ir::Section::kBackward;
    std::vector<ir::Type> types;
    for (const auto result : old.results) types.push_back(graph_.type(result));
    const auto made = rewrite_.add(std::move(node), std::move(types));
    for (size_t r = 0; r < made.size(); ++r) copy_[old.results[r]] = made[r];
    return copy_[value];
  }

  const ir::Graph& graph_;
  const std::vector<bool>& again_;
  ir::Rewrite rewrite_;
  std::vector<ir::ValueId> copy_;
  std::vector<ir::NodeId> original_;
};

}  // namespace

const char* recompute_name(Recompute policy) {
  return policy == Recompute::kNone ? "none" : policy == Recompute::kSelective ? "selective" : "full";
}

Recompute parse_recompute(std::string_view name) {
  for (const auto policy : kRecomputes) {
    if (name == recompute_name(policy)) return policy;
  }
  throw Error(Phase::kConfig, concat("`", name, "` is no way to recompute"))
      .hint("would work: none, selective, full");
}

std::vector<Cut> find_cuts(const ir::Graph& graph, const Frame& frame) {
  return Chooser(graph, frame).cuts();
}

Rematerialised rematerialise(const ir::Graph& graph, const Frame& frame, Recompute policy,
                             Checkpoints checkpoints) {
  Chooser chooser(graph, frame);
  std::vector<bool> again(graph.nodes().size(), false);
  if (policy == Recompute::kSelective) again = chooser.selective();
  if (policy == Recompute::kFull) {
    const auto cuts = chooser.cuts();
    again = chooser.full(checkpoints == Checkpoints::kAll ? cuts : chooser.choose(cuts));
  }
  return repeat(graph, again);
}

Rematerialised repeat(const ir::Graph& graph, const std::vector<bool>& again) {
  return Repeat(graph, again).run();
}

}  // namespace moai::plan
