#include "plan/solver/search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <tuple>
#include <utility>

#include "plan/solver/exact.h"
#include "plan/solver/order.h"

namespace moai::plan {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kTolerance = 1e-9;  // of costs: closer ones count as equal

constexpr int32_t kLook = 8;         // sweeps between looks at what the dual has achieved
constexpr double kStalled = 0.01;    // of the gap: less than this between looks is a standstill
constexpr int32_t kNodeSweeps = 16;  // below the root
constexpr int32_t kBlocksInVain = 6;
constexpr double kBranchGap = 0.005;       // a wider gap on a large problem is not closed by branching
constexpr double kBranchSweep = 1e6;       // steps of a sweep up to which a problem is small
constexpr size_t kMostOptions = 64;        // of a variable, in a move of all variables,
constexpr double kMoveSteps = 1e9;         // which may take this many
constexpr double kSweepShare = 0.6;        // of `search_steps`: block moves need some too
constexpr double kWorthwhile = 1e-4;       // of the cost: what a round of block moves must gain
constexpr double kBlockEntries = 1 << 14;  // of a block move's largest table,
constexpr double kBlockSteps = 1e9;        // and less where moves would take more than this
constexpr double kPatience = 2e8;          // steps of sweeps before block moves, which take about as many
constexpr double kCheapSteps = 3e7;        // an elimination that is worth a try before moves of blocks
constexpr double kOrderSteps = 5000;       // what ordering takes per variable, in steps

// What remains when the variables not in `order` keep their choice; variables are those of `order`.
Pairwise hold_others(const Pairwise& problem, const std::vector<int32_t>& order,
                     const std::vector<int32_t>& choice) {
  std::vector<int32_t> index(problem.unary.size(), -1);
  Pairwise free;
  for (const int32_t v : order) {
    index[v] = free.variables();
    free.unary.push_back(problem.unary[v]);
  }
  for (const Pairwise::Edge& edge : problem.edges) {
    const int32_t a = index[edge.a];
    const int32_t b = index[edge.b];
    const auto columns = static_cast<size_t>(problem.options(edge.b));
    const std::vector<double>& table = *edge.table;
    if (a >= 0 && b >= 0) {
      free.edges.push_back({a, b, edge.table});
    } else if (a >= 0) {
      for (size_t i = 0; i < free.unary[a].size(); ++i)
        free.unary[a][i] += table[i * columns + choice[edge.b]];
    } else if (b >= 0) {
      for (size_t j = 0; j < columns; ++j) free.unary[b][j] += table[choice[edge.a] * columns + j];
    }
  }
  return free;
}

}  // namespace

void count(const EliminationOrder& order, Solution* counters) {
  counters->steps += order.steps;
  counters->tables += static_cast<int32_t>(order.order.size());
  counters->largest_table = std::max(counters->largest_table, order.largest);
}

Search::Search(const Pairwise& problem, const SolveOptions& options, double constant, Solution* counters)
    : problem_(problem),
      options_(options),
      constant_(constant),
      counters_(counters),
      upper_(kInfinity),
      bound_(-kInfinity),
      times_held_(problem.unary.size(), 0) {
  for (const Pairwise::Edge& edge : problem.edges)
    sweep_steps_ += 2 * static_cast<double>(edge.table->size());
}

void Search::set_start(const std::vector<int32_t>& choice) {
  record(choice);
  improve(choice);
}

void Search::set_upper(double cost) { upper_ = std::min(upper_, cost); }

bool Search::is_closed(double bound) const {
  return bound >= upper_ - kTolerance * std::max(std::fabs(upper_), std::fabs(bound));
}

// What is left is not worth more work.
bool Search::is_enough(double bound) const {
  if (bound >= options_.give_up) return true;
  return upper_ < kInfinity && upper_ - bound <= options_.enough_gap * std::fabs(upper_ + constant_);
}

void Search::record(const std::vector<int32_t>& choice) {
  const double cost = problem_.cost(choice);
  if (cost >= upper_) return;
  upper_ = cost;
  best_ = choice;
  found_ = true;
}

// Makes the best moves of blocks of variables, each the most that elimination can take at small cost.
void Search::improve(std::vector<int32_t> choice) {
  size_t most_options = 1;
  for (const auto& costs : problem_.unary) most_options = std::max(most_options, costs.size());
  const double most_steps = kBlockSteps / static_cast<double>(most_options * problem_.unary.size());
  const EliminationLimits limits{
      std::min(kBlockEntries, std::max(most_steps, static_cast<double>(most_options))),
      options_.total_entries, kInfinity, 8};
  double cost = problem_.cost(choice);
  int32_t in_vain = 0;
  for (int32_t k = 0; k < options_.blocks && in_vain < kBlocksInVain && cost < kInfinity; ++k) {
    if (is_spent()) break;
    const EliminationOrder block = order_block(problem_, limits, &times_held_);
    std::vector<int32_t> inner(block.order.size());  // the block's variables are in order already
    std::iota(inner.begin(), inner.end(), 0);
    const Elimination elimination(hold_others(problem_, block.order, choice), inner);
    count(block, counters_);
    spent_ += block.steps + kOrderSteps * problem_.variables();
    std::vector<int32_t> moved(inner.size());
    elimination.complete(&moved);
    std::vector<int32_t> better = choice;
    for (size_t i = 0; i < inner.size(); ++i) better[block.order[i]] = moved[i];
    const double better_cost = problem_.cost(better);
    in_vain = better_cost < cost - kTolerance * std::fabs(cost) ? 0 : in_vain + 1;
    if (better_cost < cost) {
      cost = better_cost;
      choice = std::move(better);
    }
    // All variables free: nothing can be better.
    if (inner.size() == problem_.unary.size()) break;
  }
  record(choice);
}

// True if what is allowed was searched through.
bool Search::eliminate(const KeptOptions& allowed, double most_steps) {
  if (options_.exact_steps <= 0) return false;
  spent_ += 2 * kOrderSteps * problem_.variables();
  const Pairwise left = restrict_options(problem_, allowed);
  const double steps = std::min(most_steps, options_.exact_steps - counters_->steps);
  const EliminationOrder order =
      order_elimination(left, {options_.table_entries, options_.total_entries, steps, problem_.variables()});
  if (order.order.size() < problem_.unary.size()) return false;
  count(order, counters_);
  const Elimination elimination(left, order.order);
  if (elimination.blocked() >= 0) {
    blocked_ = elimination.blocked();
    return true;
  }
  std::vector<int32_t> choice(problem_.unary.size());
  elimination.complete(&choice);
  for (size_t v = 0; v < choice.size(); ++v) choice[v] = allowed[v][choice[v]];
  record(choice);
  return true;
}

// Raises a node's bound as long as that is worth it; true if that closed it.
bool Search::climb(Dual* node, int32_t sweeps) {
  const bool is_root = counters_->branches == 0;
  const double spent_before = spent_;
  double looked_at = -kInfinity;
  double rounded = is_root ? kInfinity : upper_;  // below the root only what is better is worth improving
  for (int32_t s = 1; s <= sweeps; ++s) {
    node->set_upper(upper_);
    ++counters_->sweeps;
    spent_ += sweep_steps_;
    if (!node->sweep()) {
      blocked_ = node->blocked();
      return true;
    }
    record(node->rounded());
    if (is_closed(node->bound())) return true;
    if (is_enough(node->bound())) return false;
    if (s % kLook != 0 && s != sweeps && spent_ < kSweepShare * options_.search_steps) continue;
    // Where the relaxation is tight, what it rules out leaves little to do; moves of blocks are for where it
    // is not.
    if (eliminate(node->allowed(), std::min(kCheapSteps, options_.direct_steps))) return true;
    const bool is_last = s == sweeps || spent_ >= kSweepShare * options_.search_steps;
    const bool is_stalled =
        spent_ - spent_before >= kPatience && node->bound() - looked_at < kStalled * (upper_ - node->bound());
    if ((is_stalled || is_last) && node->rounded_cost() < rounded) {
      rounded = node->rounded_cost();
      improve(node->rounded());
      if (is_closed(node->bound())) return true;
    } else if (is_stalled) {
      break;
    }
    if (is_last) break;
    if (eliminate(node->allowed(), options_.direct_steps)) return true;
    looked_at = node->bound();
  }
  return eliminate(node->allowed(), options_.exact_steps);
}

// Splits the variable whose options weigh most on an elimination; the cheaper half comes first.
bool Search::split(const Dual& node, std::vector<Dual>* open) const {
  const KeptOptions allowed = node.allowed();
  std::vector<int32_t> edges(allowed.size(), 0);
  for (const Pairwise::Edge& edge : problem_.edges) {
    if (allowed[edge.a].size() < 2 || allowed[edge.b].size() < 2) continue;
    ++edges[edge.a];
    ++edges[edge.b];
  }
  int32_t variable = -1;
  double most = 0;
  for (size_t v = 0; v < allowed.size(); ++v) {
    const double weight = (1 + edges[v]) * std::log2(static_cast<double>(allowed[v].size()));
    if (weight <= most) continue;
    most = weight;
    variable = static_cast<int32_t>(v);
  }
  if (variable < 0) return false;

  Dual cheap = node;
  Dual dear = node;
  const std::vector<double> costs = cheap.reduced_costs(variable);
  std::vector<int32_t> by_cost = allowed[variable];
  std::sort(by_cost.begin(), by_cost.end(),
            [&](int32_t i, int32_t j) { return costs[i] < costs[j] || (costs[i] == costs[j] && i < j); });
  for (size_t k = 0; k < by_cost.size(); ++k) {
    (k < by_cost.size() / 2 ? dear : cheap).forbid(variable, by_cost[k]);
  }
  open->push_back(std::move(cheap));
  open->push_back(std::move(dear));
  return true;
}

// Eliminates with the options only that the dual thinks best, as many of each variable as fit, and the
// best choice's: a move of all variables at once. On wide graphs, where none fit, nothing happens.
void Search::move_all(Dual* root) {
  for (size_t most = kMostOptions; most > 2; most /= 2) {
    KeptOptions kept = root->allowed();
    for (int32_t v = 0; v < problem_.variables(); ++v) {
      if (kept[v].size() <= most) continue;
      const std::vector<double> costs = root->reduced_costs(v);
      const auto rank = [&](int32_t i) { return std::make_tuple(!found_ || best_[v] != i, costs[i], i); };
      std::sort(kept[v].begin(), kept[v].end(), [&](int32_t i, int32_t j) { return rank(i) < rank(j); });
      kept[v].resize(most);
      std::sort(kept[v].begin(), kept[v].end());
    }
    if (eliminate(kept, kMoveSteps)) return;
  }
}

void Search::run(Dual* root) {
  bound_ = kInfinity;  // of the nodes closed with something left
  if (climb(root, options_.sweeps)) return;
  const double rounded = upper_;
  if (!is_enough(root->bound())) move_all(root);
  if (upper_ < rounded && climb(root, kNodeSweeps)) return;  // a lower cost rules out more
  for (double before = kInfinity;
       found_ && !is_enough(root->bound()) && upper_ < before - kWorthwhile * std::fabs(before);) {
    before = upper_;
    improve(std::vector<int32_t>(best_));
    root->set_upper(upper_);
  }
  const bool may_branch =
      sweep_steps_ <= kBranchSweep || upper_ - root->bound() <= kBranchGap * std::fabs(upper_);
  std::vector<Dual> open{*root};
  while (!open.empty()) {
    auto least = open.begin();
    for (auto node = open.begin(); node != open.end(); ++node) {
      if (node->bound() < least->bound()) least = node;
    }
    Dual node = *least;
    open.erase(least);
    if (is_closed(node.bound())) continue;
    const auto entries = static_cast<double>((open.size() + 2) * node.message_entries());
    const size_t before = open.size();
    if (!may_branch || is_spent() || is_enough(node.bound()) || counters_->branches >= options_.branches ||
        entries > options_.total_entries || !split(node, &open)) {
      bound_ = std::min(bound_, node.bound());
      continue;
    }
    ++counters_->branches;
    for (size_t k = open.size(); k-- > before;) {
      if (climb(&open[k], kNodeSweeps)) open.erase(open.begin() + static_cast<std::ptrdiff_t>(k));
    }
  }
}

}  // namespace moai::plan
