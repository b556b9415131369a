#include "plan/assign.h"

#include <algorithm>
#include <limits>
#include <map>
#include <set>
#include <tuple>

#include "ir/error.h"

namespace moai::plan {

namespace {

// How far equal surroundings must reach for two nodes to get one choice.
constexpr int32_t kFoldRounds = 4;
// Costs are models: a plan so near to the bound is as good as the best.
constexpr double kEnoughGap = 1e-3;
constexpr int32_t kMostRounds = 12;

class Assigner {
 public:
  Assigner(const ir::Graph& graph, const Frame& frame, const Mesh& mesh, int32_t micro_batches)
      : graph_(graph),
        frame_(frame),
        mesh_(mesh),
        micro_batches_(micro_batches),
        fold_(fold(graph, frame, kFoldRounds)),
        moments_(moments(graph, frame)) {}

  AssignmentProblem problem(double memory_bytes) {
    add_variables();
    add_edges();
    return {problem_, make_resources(memory_bytes)};
  }

  Assignment run(double memory_bytes) {
    add_variables();
    add_edges();
    Resources resources = make_resources(memory_bytes);
    WithinOptions options;
    options.enough_gap = kEnoughGap;
    options.rounds = kMostRounds;
    const WithinSolution found = solve_within(problem_, resources, options);
    return read(found, resources);
  }

 private:
  void add_variables() {
    const auto colours = static_cast<int32_t>(fold_.count.size());
    options_.resize(colours);
    placements_.resize(colours);
    for (int32_t c = 0; c < colours; ++c) {
      std::vector<double> costs;
      std::string name;
      if (fold_.first_node[c] != ir::kNone) {
        options_[c] = options_of(graph_, frame_, fold_.first_node[c], mesh_);
        for (const auto& option : options_[c]) costs.push_back(option.seconds);
        name = graph_.node(fold_.first_node[c]).op.str();
      } else {
        placements_[c] = input_placements(frame_, graph_.inputs()[fold_.first_input[c]], mesh_);
        costs.assign(placements_[c].size(), 0);
        name = concat("input ", fold_.first_input[c]);
      }
      problem_.add_variable(std::move(costs), fold_.count[c] * turns(fold_.first_node[c]), name);
    }
  }

  // How often a step goes through a node. Nodes of one colour lie in one part of the step.
  int32_t turns(ir::NodeId node) const {
    return node != ir::kNone && node < moments_.backward_end ? micro_batches_ : 1;
  }

  int32_t colour_of_producer(ir::ValueId value) const {
    const auto& v = graph_.value(value);
    return v.producer == ir::kNone ? fold_.of_input[v.index] : fold_.of_node[v.producer];
  }

  // Where each of the producer's options leaves a value.
  std::vector<Placement> offers(ir::ValueId value) const {
    const int32_t c = colour_of_producer(value);
    if (fold_.first_node[c] == ir::kNone) return placements_[c];
    std::vector<Placement> all;
    for (const auto& option : options_[c]) all.push_back(option.results[graph_.value(value).index]);
    return all;
  }

  void add_edges() {
    // (producer's colour, which result, consumer's colour, which operand; -1 - result for an input that is
    // updated) -> how often, and one of them
    struct Use {
      int32_t times = 0;
      ir::ValueId value = ir::kNone;
      ir::ValueId input = ir::kNone;
    };
    std::map<std::tuple<int32_t, int32_t, int32_t, int32_t>, Use> uses;
    for (size_t n = 0; n < graph_.nodes().size(); ++n) {
      const auto& operands = graph_.nodes()[n].operands;
      for (size_t o = 0; o < operands.size(); ++o) {
        auto& use =
            uses[{colour_of_producer(operands[o]), graph_.value(operands[o]).index * is_node(operands[o]),
                  fold_.of_node[n], static_cast<int32_t>(o)}];
        use.times += turns(static_cast<ir::NodeId>(n));
        use.value = operands[o];
      }
    }
    for (const auto output : graph_.outputs()) {
      const ir::ValueId input = updated_input(graph_, output);
      if (input == ir::kNone || input == output) continue;
      auto& use = uses[{colour_of_producer(output), graph_.value(output).index,
                        fold_.of_input[graph_.value(input).index], -1}];
      ++use.times;
      use.value = output;
      use.input = input;
    }
    for (const auto& [key, use] : uses) {
      const auto [from, result, to, operand] = key;
      std::vector<Placement> wanted;
      if (operand < 0) {
        wanted = placements_[to];
      } else {
        for (const auto& option : options_[to]) wanted.push_back(option.operands[operand]);
      }
      // Gradients and updated weights go in buckets; what forward and backward wait for goes at once.
      const bool merged =
          operand < 0 || (fold_.first_node[to] != ir::kNone && fold_.first_node[to] >= moments_.backward_end);
      problem_.add_edge(from, to, costs(use.value, wanted, merged), use.times);
    }
  }

  int32_t is_node(ir::ValueId value) const { return graph_.value(value).producer == ir::kNone ? 0 : 1; }

  // Many options offer or want the same placement: each pair of placements is priced once.
  CostMatrix costs(ir::ValueId value, const std::vector<Placement>& wanted, bool merged) {
    const auto offered = offers(value);
    const auto sizes = leaf_sizes(frame_, value);
    const auto index = [](const std::vector<Placement>& all, std::vector<Placement>* distinct) {
      std::map<Placement, int32_t> number;
      std::vector<int32_t> of;
      for (const auto& placement : all) {
        const auto it = number.emplace(placement, static_cast<int32_t>(distinct->size()));
        if (it.second) distinct->push_back(placement);
        of.push_back(it.first->second);
      }
      return of;
    };
    std::vector<Placement> rows, columns;
    const auto row_of = index(offered, &rows);
    const auto column_of = index(wanted, &columns);
    std::vector<double> price(rows.size() * columns.size());
    for (size_t r = 0; r < rows.size(); ++r) {
      for (size_t c = 0; c < columns.size(); ++c)
        price[r * columns.size() + c] =
            convert_seconds(graph_.type(value), sizes, rows[r], columns[c], mesh_, merged);
    }
    std::vector<double> values;
    values.reserve(offered.size() * wanted.size());
    for (const auto r : row_of) {
      for (const auto c : column_of)
        values.push_back(price[static_cast<size_t>(r) * columns.size() + static_cast<size_t>(c)]);
    }
    return CostMatrix(static_cast<int32_t>(offered.size()), static_cast<int32_t>(wanted.size()),
                      std::move(values));
  }

  Resources make_resources(double memory_bytes) {
    Resources resources;
    resources.limits.assign(Moments::kCount, memory_bytes);
    resources.names = {"memory at the end of forward", "memory at the end of backward"};
    for (int32_t c = 0; c < problem_.variables(); ++c)
      resources.uses.emplace_back(static_cast<size_t>(problem_.options(c)) * Moments::kCount, 0.0);
    const auto add = [&](ir::ValueId value, int32_t moment) {
      const auto all = offers(value);
      const auto sizes = leaf_sizes(frame_, value);
      auto& rows = resources.uses[colour_of_producer(value)];
      for (size_t i = 0; i < all.size(); ++i)
        rows[i * Moments::kCount + static_cast<size_t>(moment)] +=
            local_bytes(graph_.type(value), sizes, all[i], mesh_);
    };
    for (int32_t m = 0; m < Moments::kCount; ++m) {
      for (const auto input : graph_.inputs()) add(input, m);
      for (const auto value : moments_.live[m]) add(value, m);
    }
    // Gradients are added up over the micro-batches, and are there when the last one's forward ends.
    const std::set<ir::ValueId> there(moments_.live[0].begin(), moments_.live[0].end());
    for (const auto value : moments_.live[1]) {
      if (micro_batches_ > 1 && there.count(value) == 0) add(value, 0);
    }
    return resources;
  }

  // What the options that use least would use together.
  std::vector<double> least_bytes(const Resources& resources) const {
    std::vector<double> bytes(Moments::kCount, 0.0);
    for (const auto& uses : resources.uses) {
      for (size_t m = 0; m < bytes.size(); ++m) {
        double least = std::numeric_limits<double>::infinity();
        for (size_t at = m; at < uses.size(); at += Moments::kCount) least = std::min(least, uses[at]);
        if (least < std::numeric_limits<double>::infinity()) bytes[m] += least;
      }
    }
    return bytes;
  }

  Assignment read(const WithinSolution& found, const Resources& resources) const {
    Assignment out;
    out.variables = problem_.variables();
    out.bytes = found.used.empty() ? least_bytes(resources) : found.used;
    for (int32_t v = 0; v < problem_.variables(); ++v) out.options += problem_.options(v);
    out.exact = found.solution.exact;
    out.rounds = found.rounds;
    out.lower_bound = found.solution.lower_bound;
    if (!found.solution.feasible()) {
      try {
        require_feasible(problem_, resources, found);
      } catch (const Error& error) {
        out.excess = error.what();
      }
      return out;
    }
    out.fits = true;
    out.seconds = found.solution.cost;
    const auto& choice = found.solution.choice;
    for (size_t n = 0; n < fold_.of_node.size(); ++n) {
      const auto c = fold_.of_node[n];
      out.nodes.push_back(options_[c][choice[c]]);
      out.compute_seconds += out.nodes.back().seconds * turns(static_cast<ir::NodeId>(n));
    }
    out.communicate_seconds = out.seconds - out.compute_seconds;
    for (size_t i = 0; i < fold_.of_input.size(); ++i) {
      const auto c = fold_.of_input[i];
      out.inputs.push_back(placements_[c][choice[c]]);
      const auto value = graph_.inputs()[i];
      out.state_bytes += local_bytes(graph_.type(value), leaf_sizes(frame_, value), out.inputs.back(), mesh_);
    }
    return out;
  }

  const ir::Graph& graph_;
  const Frame& frame_;
  const Mesh& mesh_;
  int32_t micro_batches_;
  Fold fold_;
  Moments moments_;
  FactorGraph problem_;
  std::vector<std::vector<Option>> options_;        // by colour
  std::vector<std::vector<Placement>> placements_;  // by colour
};

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

Moments moments(const ir::Graph& graph, const Frame& frame) {
  const auto nodes = static_cast<int32_t>(graph.nodes().size());
  // A view is its base: it lives as long as any of its views.
  std::vector<ir::ValueId> base(graph.values().size());
  std::vector<int32_t> last_use(graph.values().size(), -1);
  for (size_t v = 0; v < base.size(); ++v) base[v] = static_cast<ir::ValueId>(v);
  int32_t forward_end = 0, backward_end = 0;
  for (int32_t n = 0; n < nodes; ++n) {
    const ir::Node& node = graph.node(n);
    const bool shares = frame.rules[n].free && !node.operands.empty();
    for (size_t r = 0; r < node.results.size(); ++r) {
      const int32_t tied = node.tied_operand(r);
      if (shares) base[node.results[r]] = base[node.operands[0]];
      if (tied != ir::kNone) base[node.results[r]] = base[node.operands[tied]];
    }
    for (const auto operand : node.operands) last_use[base[operand]] = n;
    if (node.section == ir::Section::kBackward) {
      if (backward_end == 0) forward_end = n;
      backward_end = n + 1;
    }
  }
  if (backward_end == 0) forward_end = backward_end = nodes;
  for (const auto output : graph.outputs()) last_use[base[output]] = nodes;
  Moments out;
  out.backward_end = backward_end;
  for (const int32_t moment : {forward_end, backward_end}) {
    std::vector<ir::ValueId> live;
    for (int32_t n = 0; n < std::min(moment, nodes); ++n) {
      for (const auto value : graph.node(n).results) {
        if (base[value] == value && last_use[value] >= moment) live.push_back(value);
      }
    }
    out.live.push_back(std::move(live));
  }
  return out;
}

Assignment assign(const ir::Graph& graph, const Frame& frame, const Mesh& mesh, double memory_bytes,
                  int32_t micro_batches) {
  return Assigner(graph, frame, mesh, micro_batches).run(memory_bytes);
}

AssignmentProblem assignment_problem(const ir::Graph& graph, const Frame& frame, const Mesh& mesh,
                                     double memory_bytes, int32_t micro_batches) {
  return Assigner(graph, frame, mesh, micro_batches).problem(memory_bytes);
}

}  // namespace moai::plan
