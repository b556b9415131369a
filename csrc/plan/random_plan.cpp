#include "plan/random_plan.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "ir/error.h"

namespace moai::plan {

namespace {

// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): the same numbers on every host.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  size_t below(size_t n) { return static_cast<size_t>(next() % n); }

 private:
  uint64_t state_;
};

constexpr double kSplit = 0.9;

std::set<std::string> names_of(const ir::Graph& graph, const Frame& frame, ir::NodeId node,
                               const Option& option) {
  const ops::Rule& rule = frame.rules[node];
  const auto kind = graph.node(node).kind;
  const std::string op = kind == ir::NodeKind::kOp     ? graph.node(node).op.str()
                         : kind == ir::NodeKind::kView ? "view"
                                                       : "update";
  std::set<std::string> names;
  for (const auto& choice : option.choices) {
    if (choice.kind == AxisChoice::Kind::kFactor)
      names.insert(concat(op, " ", rule.factors[choice.factor].name));
    else if (choice.kind == AxisChoice::Kind::kLinear) names.insert(concat(op, " +", choice.factor));
  }
  if (names.empty()) names.insert(op + " -");
  return names;
}

class Draw {
 public:
  Draw(const ir::Graph& graph, const Frame& frame, const Mesh& mesh, uint64_t seed, SplitCounts* counts)
      : graph_(graph), frame_(frame), mesh_(mesh), random_(seed), counts_(*counts) {}

  Assignment run() {
    for (const auto input : graph_.inputs()) {
      const auto all = input_placements(frame_, input, mesh_);
      out_.inputs.push_back(all[random_.below(all.size())]);
    }
    for (size_t n = 0; n < graph_.nodes().size(); ++n)
      out_.nodes.push_back(option(static_cast<ir::NodeId>(n)));
    out_.fits = true;
    return std::move(out_);
  }

 private:
  bool can_have(ir::NodeId node, const Option& option) const {
    const auto& operands = graph_.node(node).operands;
    for (size_t o = 0; o < operands.size(); ++o) {
      const Placement& from = out_.placement(graph_, operands[o]);
      if (!keeps_order(frame_, operands[o], from, option.operands[o])) return false;
      for (size_t a = 0; a < from.size(); ++a) {
        if (change_of(from[a], option.operands[o][a]) == Change::kImpossible) return false;
      }
    }
    return true;
  }

  Option option(ir::NodeId node) {
    std::vector<Option> whole, split;
    for (auto& option : options_of(graph_, frame_, node, mesh_)) {
      if (!can_have(node, option)) continue;
      (is_split(option) ? split : whole).push_back(std::move(option));
    }
    MOAI_ASSERT(!whole.empty() || !split.empty(), "a node that can lie nowhere");
    const bool splits = whole.empty() || (!split.empty() && random_.uniform() < kSplit);
    auto& among = splits ? split : whole;
    std::vector<double> weights;
    double total = 0;
    for (const auto& option : among) {
      double weight = 0;
      for (const auto& name : names_of(graph_, frame_, node, option)) {
        const auto it = counts_.find(name);
        weight = std::max(weight, 1.0 / (1.0 + static_cast<double>(it == counts_.end() ? 0 : it->second)));
      }
      weights.push_back(weight);
      total += weight;
    }
    double at = random_.uniform() * total;
    size_t chosen = 0;
    while (chosen + 1 < among.size() && at >= weights[chosen]) at -= weights[chosen++];
    for (const auto& name : names_of(graph_, frame_, node, among[chosen])) ++counts_[name];
    return std::move(among[chosen]);
  }

  const ir::Graph& graph_;
  const Frame& frame_;
  const Mesh& mesh_;
  Random random_;
  SplitCounts& counts_;
  Assignment out_;
};

}  // namespace

bool is_split(const Option& option) {
  return std::any_of(option.choices.begin(), option.choices.end(),
                     [](const AxisChoice& choice) { return choice.kind != AxisChoice::Kind::kWhole; });
}

void count_splits(const ir::Graph& graph, const Frame& frame, const Assignment& assignment,
                  SplitCounts* counts) {
  for (size_t n = 0; n < assignment.nodes.size(); ++n) {
    for (const auto& name : names_of(graph, frame, static_cast<ir::NodeId>(n), assignment.nodes[n]))
      ++(*counts)[name];
  }
}

Assignment random_assignment(const ir::Graph& graph, const Frame& frame, const Mesh& mesh, uint64_t seed,
                             SplitCounts* counts) {
  return Draw(graph, frame, mesh, seed, counts).run();
}

std::vector<int32_t> random_groups(size_t nodes, int32_t groups, uint64_t seed) {
  constexpr double kMovesOn = 0.15;
  Random random(seed);
  std::vector<int32_t> group(nodes, 0);
  for (size_t n = 0; n < nodes; ++n) {
    const bool moves = n == 0 || random.uniform() < kMovesOn;
    group[n] = moves ? static_cast<int32_t>(random.below(static_cast<size_t>(groups))) : group[n - 1];
  }
  return group;
}

}  // namespace moai::plan
