#include "plan/assign.h"

#include <algorithm>
#include <limits>
#include <map>
#include <tuple>
#include <utility>

#include "ir/bytes_text.h"
#include "ir/error.h"
#include "plan/hints.h"
#include "plan/live_bytes.h"
#include "plan/op_cost.h"

namespace moai::plan {

namespace {

using K = Split::Kind;

// On steps of training the dual leaves little to eliminate: longer eliminations wait for it.
constexpr double kDirectSteps = 1e7;
// How often a moment that was seen to take too much is added to those at which memory is counted.
constexpr int32_t kMoreMoments = 4;

class Assigner {
 public:
  Assigner(const Step& step, const Frame& turn, const Mesh& mesh, const Terms& terms)
      : step_(step),
        graph_(step.graph),
        frame_(turn),
        mesh_(mesh),
        terms_(terms),
        fold_(step.fold),
        lifetimes_(step, terms),
        moments_{{step.roles.forward_end, 0}, {step.roles.backward_end, 0}} {
    add_variables();
    add_edges();
  }

  Assignment run() {
    Assignment best;
    std::vector<int32_t> start;
    for (int32_t round = 0;; ++round) {
      const Resources resources = make_resources();
      WithinOptions options;
      options.enough_gap = terms_.enough_gap;
      options.rounds = terms_.rounds;
      options.give_up = terms_.give_up;
      options.solve.direct_steps = kDirectSteps;
      options.solve.exact_steps = terms_.steps;
      options.solve.search_steps = terms_.steps;
      options.solve.branches = terms_.branches;
      options.solve.enough_gap = terms_.proof_gap;
      const WithinSolution found = solve_within(problem_, resources, options, start);
      Assignment next = read(found, resources);
      // More moments are less freedom: the first bound holds for all, and so does the last, which is higher.
      next.rounds += best.rounds;
      best = std::move(next);
      if (!best.fits || best.lower_bound >= terms_.give_up) return best;
      const std::vector<double> live = live_bytes(step_, frame_, mesh_, terms_, best);
      const auto most = std::max_element(live.begin(), live.end());
      best.bytes = live.empty() ? 0 : *most;
      best.fullest = static_cast<ir::NodeId>(most - live.begin());
      best.scratch_bytes = live.empty() ? 0 : best.nodes[most - live.begin()].scratch_bytes;
      if (best.bytes <= terms_.memory_bytes * (1 + 1e-9)) {
        options.halvings = terms_.halvings;
        if (options.halvings > 0 && is_wide(found, options)) {
          const WithinSolution halved = solve_within(problem_, resources, options, found.solution.choice);
          best.lower_bound = std::max(best.lower_bound, std::min(halved.solution.lower_bound, best.seconds));
        }
        return best;
      }
      if (round == kMoreMoments || !add_moment(best.fullest, best)) {
        best.fits = false;
        best.excess = concat("memory at ", graph_.node(best.fullest).op.str(), ": ", bytes_text(best.bytes),
                             ", limit ", bytes_text(terms_.memory_bytes));
        return best;
      }
      start = found.solution.choice;
    }
  }

  AssignmentProblem problem() { return {problem_, make_resources()}; }

 private:
  // A place in the order of nodes at which memory is counted: before `node` runs, with what it makes and
  // with the weights as it wants them (where they lie so already, that is counted twice). `beside` is taken
  // by what no choice of one variable tells: copies of other operands.
  struct Moment {
    ir::NodeId node;
    double beside;
  };

  bool add_moment(ir::NodeId node, const Assignment& seen) {
    double counted = working_bytes(node, seen.nodes[node]);
    for (size_t v = 0; v < graph_.values().size(); ++v) {
      const auto value = static_cast<ir::ValueId>(v);
      if (!takes_memory(value) || !lifetimes_.is_alive(value, node)) continue;
      counted += lifetimes_.weight(value) * local_bytes(graph_.type(value), leaf_sizes(frame_, value),
                                                        seen.placement(graph_, value), mesh_);
    }
    const double beside = std::max(0.0, seen.bytes - counted);
    for (auto& moment : moments_) {
      if (moment.node != node) continue;
      if (beside <= moment.beside * (1 + 1e-6)) return false;
      moment.beside = beside;
      return beside < terms_.memory_bytes;
    }
    moments_.push_back({node, beside});
    return beside < terms_.memory_bytes;
  }

  bool takes_memory(ir::ValueId value) const { return is_node(value) == 0 || step_.base[value] == value; }

  double working_bytes(ir::NodeId n, const Option& option) const {
    const ir::Node& node = graph_.node(n);
    double bytes = option.scratch_bytes;
    for (size_t r = 0; r < node.results.size(); ++r) {
      const auto value = node.results[r];
      if (takes_memory(value) && lifetimes_.first(value) == n)
        bytes += lifetimes_.weight(value) *
                 local_bytes(graph_.type(value), leaf_sizes(frame_, value), option.results[r], mesh_);
    }
    for (size_t o = 0; o < node.operands.size(); ++o) {
      const auto value = step_.base[node.operands[o]];
      if (graph_.value(value).producer == ir::kNone && step_.roles.in_loop(n))
        bytes += local_bytes(graph_.type(node.operands[o]), leaf_sizes(frame_, node.operands[o]),
                             option.operands[o], mesh_);
    }
    return bytes;
  }

  void add_variables() {
    const auto colours = static_cast<int32_t>(fold_.count.size());
    std::vector<double> times(static_cast<size_t>(colours), 0.0);
    for (size_t n = 0; n < fold_.of_node.size(); ++n)
      times[fold_.of_node[n]] += turns(static_cast<ir::NodeId>(n));
    options_.resize(colours);
    placements_.resize(colours);
    for (int32_t c = 0; c < colours; ++c) {
      std::vector<double> costs;
      std::string name;
      if (fold_.first_node[c] != ir::kNone) {
        options_[c] = node_options(fold_.first_node[c]);
        add_up_turns(fold_.first_node[c], &options_[c]);
        for (const auto& option : options_[c]) costs.push_back(option.seconds);
        name = graph_.node(fold_.first_node[c]).op.str();
      } else {
        placements_[c] = input_options(fold_.first_input[c]);
        costs.assign(placements_[c].size(), 0);
        name = concat("input ", fold_.first_input[c]);
      }
      problem_.add_variable(std::move(costs), fold_.first_node[c] == ir::kNone ? 1.0 : times[c], name);
    }
  }

  // The first of them finds nothing to add to.
  void add_up_turns(ir::NodeId node, std::vector<Option>* options) const {
    const double later = static_cast<double>(terms_.turns - 1) / terms_.turns;
    const auto& results = graph_.node(node).results;
    for (size_t r = 0; r < results.size() && later > 0; ++r) {
      if (!step_.is_sum(results[r])) continue;
      for (auto& option : *options)
        option.seconds +=
            later * cost_of_adding(graph_, frame_, results[r], option.results[r], mesh_).seconds();
    }
  }

  std::vector<Option> node_options(ir::NodeId node) const {
    if (step_.is_of_sums[node]) return ways_of_sum(node);
    std::vector<Option> all = options_of(graph_, frame_, node, mesh_, &step_.roles);
    if (terms_.uses_axes && is_contraction(graph_, node, step_.frame.rules[node])) {
      for (size_t a = 0; a < mesh_.axes.size(); ++a) {
        // An axis that may have experts has those of every product with experts; tensor parallelism splits
        // positions too, but not in contractions; experts' axis splits samples where there are no experts.
        const Axis& axis = mesh_.axes[a];
        std::vector<Option> experts, features, rest;
        for (const auto& option : all) {
          const AxisChoice& choice = option.choices[a];
          if (choice.kind != AxisChoice::Kind::kFactor) continue;
          const Role role = step_.roles.of_atom[frame_.node_factors[node][choice.factor][choice.leaf]];
          const bool is_expert = role == Role::kExpert && axis.may_split(role);
          const bool is_feature = role == Role::kFeature && axis.may_split(role);
          (is_expert ? experts : is_feature ? features : rest).push_back(option);
        }
        std::vector<Option> split;
        if (!experts.empty()) {
          split = std::move(experts);
        } else if (axis.may_split(Role::kFeature)) {
          split = std::move(features);
        } else if (!axis.may_split(Role::kExpert) || !has_own_order(node)) {
          // Rows that are routed lie as the experts' products want them.
          split = std::move(rest);
        }
        if (!split.empty()) all = std::move(split);
      }
    }
    return pinned(node, std::move(all));
  }

  bool has_own_order(ir::NodeId n) const {
    const ir::Node& node = graph_.node(n);
    const auto has = [&](ir::ValueId value) { return frame_.own_order[value] >= 0; };
    return std::any_of(node.operands.begin(), node.operands.end(), has) ||
           std::any_of(node.results.begin(), node.results.end(), has);
  }

  // Along any axis: it lies as states do.
  std::vector<Option> ways_of_sum(ir::NodeId node) const {
    std::vector<Option> all = options_of(graph_, frame_, node, mesh_);
    for (size_t a = 0; a < mesh_.axes.size() && step_.hands_on[node] && terms_.zero >= 2; ++a) {
      if (mesh_.axes[a].may_split(Role::kBatch))
        prefer(&all, [&](const Option& option) { return option.results[0][a].kind == K::kShard; });
    }
    return pinned(node, std::move(all));
  }

  std::vector<Option> pinned(ir::NodeId node, std::vector<Option> all) const {
    if (terms_.pinned_nodes.empty() || terms_.pinned_nodes[node].empty()) return all;
    const auto& wanted = terms_.pinned_nodes[node];
    for (auto& option : all) {
      if (option.choices == wanted) return {std::move(option)};
    }
    std::string text;
    for (size_t a = 0; a < wanted.size(); ++a) {
      if (wanted[a].kind != AxisChoice::Kind::kFactor) continue;
      const auto& factor = step_.frame.rules[node].factors[wanted[a].factor];
      text += concat(text.empty() ? "" : " and ", factor.name, " (of ", factor.size, ") in ",
                     mesh_.axes[a].size, " parts");
    }
    throw Error(Phase::kPlan, concat("the plan splits ", graph_.node(node).op.str(), " by ",
                                     text.empty() ? "nothing" : text, ", which is no way to split it"))
        .hint("would work: another dimension, or \"whole\"");
  }

  std::vector<Placement> input_options(int32_t input) const {
    if (!terms_.pinned_inputs.empty() && !terms_.pinned_inputs[input].empty())
      return {terms_.pinned_inputs[input]};
    std::vector<Placement> all = input_placements(frame_, graph_.inputs()[input], mesh_);
    const InputRole role = step_.roles.of_input[input];
    if (role == InputRole::kData) return hinted(graph_, input, mesh_, std::move(all));
    const bool is_sharded = role == InputRole::kWeight ? terms_.zero >= 3 : terms_.zero >= 1;
    for (size_t a = 0; a < mesh_.axes.size(); ++a) {
      const bool copies = !terms_.copies.empty() && terms_.copies[a];
      if (!copies && (terms_.zero < 0 || !mesh_.axes[a].may_split(Role::kBatch))) continue;
      const bool shards = is_sharded && !copies;
      prefer(&all, [&](const Placement& placement) { return (placement[a].kind == K::kShard) == shards; });
    }
    return hinted(graph_, input, mesh_, std::move(all));
  }

  // How often a device goes through a node in a step, in a pipeline its share of it.
  double turns(ir::NodeId node) const {
    const double often = step_.time.repeats[node] ? terms_.turns + terms_.idle_turns : 1.0;
    return often / terms_.stages;
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
    for (const Use& use : step_.uses) {
      const int32_t to = use.to, operand = use.operand;
      std::vector<Placement> wanted;
      if (operand == Use::kUpdates) {
        wanted = placements_[to];
      } else {
        for (const auto& option : options_[to]) wanted.push_back(option.operands[operand]);
      }
      const bool merged = operand == Use::kUpdates ||
                          (fold_.first_node[to] != ir::kNone && step_.is_bucketed(fold_.first_node[to]));
      const double times = (use.in_turn * (terms_.turns + terms_.idle_turns) + use.once) / terms_.stages;
      problem_.add_edge(use.from, to, costs(use.value, wanted, merged), times);
    }
  }

  // On the host a part of a value can be seen, but devices exchange none there.
  double conversion(ir::ValueId value, const Placement& from, const Placement& to, bool merged) const {
    const double seconds = convert_seconds(graph_, frame_, value, from, to, mesh_, merged);
    return step_.on_host[value] && seconds > 0 ? std::numeric_limits<double>::infinity() : seconds;
  }

  int32_t is_node(ir::ValueId value) const { return graph_.value(value).producer == ir::kNone ? 0 : 1; }

  // Many options offer or want the same placement: each pair of placements is priced once.
  CostMatrix costs(ir::ValueId value, const std::vector<Placement>& wanted, bool merged) {
    const auto offered = offers(value);
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
        price[r * columns.size() + c] = conversion(value, rows[r], columns[c], merged);
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

  // Values that play the same part: one of them, and by moment how many are alive, each with its weight.
  struct Kept {
    ir::ValueId value;
    std::vector<double> weight;
  };

  std::vector<Kept> kept_values() const {
    std::vector<Kept> all;
    std::vector<std::vector<size_t>> number(fold_.count.size());  // by colour and result, from 1
    for (size_t v = 0; v < graph_.values().size(); ++v) {
      const auto value = static_cast<ir::ValueId>(v);
      if (!takes_memory(value)) continue;
      for (size_t m = 0; m < moments_.size(); ++m) {
        if (!lifetimes_.is_alive(value, moments_[m].node)) continue;
        auto& of_colour = number[colour_of_producer(value)];
        const auto result = is_node(value) == 0 ? 0 : static_cast<size_t>(graph_.value(value).index);
        if (of_colour.size() <= result) of_colour.resize(result + 1, 0);
        if (of_colour[result] == 0) {
          all.push_back({value, std::vector<double>(moments_.size(), 0.0)});
          of_colour[result] = all.size();
        }
        all[of_colour[result] - 1].weight[m] += lifetimes_.weight(value);
      }
    }
    return all;
  }

  Resources make_resources() const {
    const size_t count = moments_.size();
    Resources resources;
    for (const auto& moment : moments_) {
      resources.limits.push_back(terms_.memory_bytes - moment.beside);
      resources.names.push_back(moment.node == step_.roles.forward_end ? "memory at the end of forward"
                                : moment.node == step_.roles.backward_end
                                    ? "memory at the end of backward"
                                    : concat("memory at ", graph_.node(moment.node).op.str()));
    }
    for (int32_t c = 0; c < problem_.variables(); ++c)
      resources.uses.emplace_back(static_cast<size_t>(problem_.options(c)) * count, 0.0);
    for (const auto& kept : kept_values()) {
      auto& rows = resources.uses[colour_of_producer(kept.value)];
      const std::vector<Placement> all = offers(kept.value);
      for (size_t i = 0; i < all.size(); ++i) {
        const double bytes =
            local_bytes(graph_.type(kept.value), leaf_sizes(frame_, kept.value), all[i], mesh_);
        for (size_t m = 0; m < count; ++m) rows[i * count + m] += kept.weight[m] * bytes;
      }
    }
    for (size_t m = 2; m < count; ++m) {
      const auto c = fold_.of_node[moments_[m].node];
      for (size_t i = 0; i < options_[c].size(); ++i)
        resources.uses[c][i * count + m] += working_bytes(moments_[m].node, options_[c][i]);
    }
    return resources;
  }

  // What the options that use least at a moment use together.
  double least_bytes(const Resources& resources, size_t moment) const {
    double bytes = 0;
    const auto least = least_choice(resources, moment);
    for (size_t v = 0; v < least.size(); ++v)
      bytes += resources.uses[v][static_cast<size_t>(least[v]) * resources.limits.size() + moment];
    return bytes;
  }

  // By variable.
  std::vector<int32_t> least_choice(const Resources& resources, size_t moment) const {
    const size_t count = resources.limits.size();
    std::vector<int32_t> choice;
    for (const auto& uses : resources.uses) {
      size_t least = 0;
      for (size_t i = 1; i * count < uses.size(); ++i) {
        if (uses[i * count + moment] < uses[least * count + moment]) least = i;
      }
      choice.push_back(static_cast<int32_t>(least));
    }
    return choice;
  }

  // Says where nothing fits, and returns the choice that takes least there.
  std::vector<int32_t> tell_excess(const WithinSolution& found, const Resources& resources,
                                   Assignment* out) const {
    size_t worst = 0;
    std::vector<double> used = found.used;
    for (size_t m = 0; m < moments_.size(); ++m) {
      if (found.used.empty()) used.push_back(least_bytes(resources, m));
      if (used[m] - resources.limits[m] > used[worst] - resources.limits[worst]) worst = m;
    }
    out->fullest = moments_[worst].node;
    out->bytes = used[worst] + moments_[worst].beside;
    if (used[worst] > resources.limits[worst]) {
      out->excess = concat(resources.names[worst], ": ", bytes_text(out->bytes), " at least, limit ",
                           bytes_text(terms_.memory_bytes));
    } else {
      try {
        require_feasible(problem_, resources, found);
      } catch (const Error& error) {
        out->excess = error.what();
      }
    }
    return least_choice(resources, worst);
  }

  Assignment read(const WithinSolution& found, const Resources& resources) const {
    Assignment out;
    out.variables = problem_.variables();
    for (int32_t v = 0; v < problem_.variables(); ++v) out.options += problem_.options(v);
    out.exact = found.solution.exact;
    out.rounds = found.rounds;
    out.lower_bound = found.solution.lower_bound;
    out.fits = found.solution.feasible();
    const std::vector<int32_t> choice =
        out.fits ? found.solution.choice : tell_excess(found, resources, &out);
    if (out.fits) out.seconds = found.solution.cost;
    std::vector<int32_t> number(options_.size(), -1);
    for (size_t n = 0; n < fold_.of_node.size(); ++n) {
      const auto c = fold_.of_node[n];
      if (number[c] < 0) {
        number[c] = out.nodes.push_back(options_[c][choice[c]]);
      } else {
        out.nodes.push_again(number[c]);
      }
      out.compute_seconds += out.nodes[n].seconds * turns(static_cast<ir::NodeId>(n));
    }
    if (!out.fits && out.fullest < static_cast<ir::NodeId>(out.nodes.size()))
      out.scratch_bytes = out.nodes[out.fullest].scratch_bytes;
    out.communicate_seconds = std::max(0.0, out.seconds - out.compute_seconds);
    for (size_t i = 0; i < fold_.of_input.size(); ++i) {
      const auto c = fold_.of_input[i];
      if (number[c] < 0) {
        number[c] = out.inputs.push_back(placements_[c][choice[c]]);
      } else {
        out.inputs.push_again(number[c]);
      }
      const auto value = graph_.inputs()[i];
      out.state_bytes +=
          local_bytes(graph_.type(value), leaf_sizes(frame_, value), out.inputs[i], mesh_) / terms_.stages;
    }
    return out;
  }

  const Step& step_;
  const ir::Graph& graph_;
  const Frame& frame_;
  const Mesh& mesh_;
  const Terms& terms_;
  const Fold& fold_;
  Lifetimes lifetimes_;
  std::vector<Moment> moments_;
  FactorGraph problem_;
  std::vector<std::vector<Option>> options_;        // by colour
  std::vector<std::vector<Placement>> placements_;  // by colour
};

}  // namespace

Assignment assign(const Step& step, const Frame& turn, const Mesh& mesh, const Terms& terms) {
  return Assigner(step, turn, mesh, terms).run();
}

AssignmentProblem assignment_problem(const Step& step, const Frame& turn, const Mesh& mesh,
                                     const Terms& terms) {
  return Assigner(step, turn, mesh, terms).problem();
}

}  // namespace moai::plan
