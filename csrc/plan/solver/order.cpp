#include "plan/solver/order.h"

#include <algorithm>
#include <iterator>
#include <set>
#include <tuple>
#include <utility>

namespace moai::plan {

namespace {

enum class Rule { kFill, kWeight };

constexpr double kRowSteps = 100;

// The graph that is left while variables are eliminated from it.
class Remaining {
 public:
  Remaining(const Pairwise& problem, Rule rule) : rule_(rule), neighbours_(problem.unary.size()) {
    for (const Pairwise::Edge& edge : problem.edges) {
      // One option is no dimension of a table: its costs are the other's own.
      if (problem.options(edge.a) == 1 || problem.options(edge.b) == 1) continue;
      neighbours_[edge.a].push_back(edge.b);
      neighbours_[edge.b].push_back(edge.a);
    }
    for (int32_t v = 0; v < problem.variables(); ++v) {
      sizes_.push_back(static_cast<double>(problem.options(v)));
      std::sort(neighbours_[v].begin(), neighbours_[v].end());
    }
    keys_.resize(sizes_.size());
    for (int32_t v = 0; v < problem.variables(); ++v) queue_.insert(keys_[v] = key(v));
  }

  // The next variable to try, taken from the queue; -1 at the end. One not eliminated comes back when
  // its neighbourhood changes.
  int32_t next() {
    while (!queue_.empty()) {
      const Key first = *queue_.begin();
      queue_.erase(queue_.begin());
      const int32_t v = std::get<2>(first);
      const Key now = key(v);  // those two edges away were not told of a change
      if (now <= first) return v;
      queue_.insert(keys_[v] = now);
    }
    return -1;
  }

  // Entries of the table that eliminating it makes.
  double table(int32_t v) const {
    double entries = 1;
    for (const int32_t u : neighbours_[v]) entries *= sizes_[u];
    return entries;
  }
  double size(int32_t v) const { return sizes_[v]; }
  // Options of the neighbour that has most.
  double widest(int32_t v) const {
    double most = 1;
    for (const int32_t u : neighbours_[v]) most = std::max(most, sizes_[u]);
    return most;
  }
  const std::vector<int32_t>& neighbours(int32_t v) const { return neighbours_[v]; }

  void eliminate(int32_t v) {
    queue_.erase(keys_[v]);
    const std::vector<int32_t> around = std::move(neighbours_[v]);
    std::vector<int32_t> joined;
    for (const int32_t u : around) {
      joined.clear();
      std::set_union(neighbours_[u].begin(), neighbours_[u].end(), around.begin(), around.end(),
                     std::back_inserter(joined));
      joined.erase(std::remove_if(joined.begin(), joined.end(), [&](int32_t w) { return w == u || w == v; }),
                   joined.end());
      neighbours_[u] = joined;
    }
    neighbours_[v].clear();
    for (const int32_t u : around) requeue(u);
  }

  // Takes a variable out; the table it leaves with each neighbour becomes part of the neighbour's costs.
  void hold(int32_t v) {
    queue_.erase(keys_[v]);
    const std::vector<int32_t> around = std::move(neighbours_[v]);
    neighbours_[v].clear();
    for (const int32_t u : around) {
      neighbours_[u].erase(std::find(neighbours_[u].begin(), neighbours_[u].end(), v));
      requeue(u);
    }
  }

 private:
  using Key = std::tuple<double, double, int32_t>;

  static constexpr size_t kMostForFill = 24;  // neighbours; the count of pairs is their square

  Key key(int32_t v) const { return {rule_ == Rule::kFill ? fill(v) : 0, table(v), v}; }

  double fill(int32_t v) const {
    const std::vector<int32_t>& around = neighbours_[v];
    if (around.size() > kMostForFill) return static_cast<double>(around.size() * around.size());
    int32_t missing = 0;
    for (const int32_t u : around) {
      for (const int32_t w : around) {
        if (u >= w) continue;
        missing += !std::binary_search(neighbours_[u].begin(), neighbours_[u].end(), w);
      }
    }
    return missing;
  }

  void requeue(int32_t v) {
    queue_.erase(keys_[v]);
    queue_.insert(keys_[v] = key(v));
  }

  Rule rule_;
  std::vector<std::vector<int32_t>> neighbours_;  // sorted
  std::vector<double> sizes_;
  std::vector<Key> keys_;
  std::set<Key> queue_;
};

// Adds a variable to the order if that keeps within the limits.
bool take(int32_t v, const Remaining& graph, const EliminationLimits& limits, EliminationOrder* order) {
  const double table = graph.table(v);
  // A row of the table, over the options of one neighbour, costs as much again as some more additions.
  const double rows = table / graph.widest(v);
  const double steps = order->steps + table * graph.size(v) + kRowSteps * rows;
  if (graph.neighbours(v).size() > static_cast<size_t>(limits.neighbours) || table > limits.largest ||
      order->entries + table > limits.entries || steps > limits.steps) {
    return false;
  }
  order->order.push_back(v);
  order->largest = std::max(order->largest, table);
  order->entries += table;
  order->steps = steps;
  return true;
}

EliminationOrder order_by(Rule rule, const Pairwise& problem, const EliminationLimits& limits) {
  Remaining graph(problem, rule);
  EliminationOrder order;
  for (int32_t v = graph.next(); v >= 0; v = graph.next()) {
    if (take(v, graph, limits, &order)) graph.eliminate(v);
  }
  return order;
}

}  // namespace

EliminationOrder order_elimination(const Pairwise& problem, const EliminationLimits& limits) {
  EliminationOrder by_fill = order_by(Rule::kFill, problem, limits);
  EliminationOrder by_weight = order_by(Rule::kWeight, problem, limits);
  if (by_fill.order.size() != by_weight.order.size()) {
    return by_fill.order.size() > by_weight.order.size() ? by_fill : by_weight;
  }
  return by_fill.steps <= by_weight.steps ? by_fill : by_weight;
}

EliminationOrder order_block(const Pairwise& problem, const EliminationLimits& limits,
                             std::vector<int32_t>* times_held) {
  Remaining graph(problem, Rule::kWeight);
  EliminationOrder order;
  for (int32_t v = graph.next(); v >= 0; v = graph.next()) {
    bool taken = take(v, graph, limits, &order);
    while (!taken && !graph.neighbours(v).empty()) {
      int32_t held = -1;
      for (const int32_t u : graph.neighbours(v)) {
        const auto rank = [&](int32_t w) {
          return std::make_pair((*times_held)[w], -static_cast<int64_t>(graph.neighbours(w).size()));
        };
        if (held < 0 || rank(u) < rank(held)) held = u;
      }
      graph.hold(held);
      ++(*times_held)[held];
      taken = take(v, graph, limits, &order);
    }
    if (taken) {
      graph.eliminate(v);
    } else {
      graph.hold(v);
      ++(*times_held)[v];
    }
  }
  return order;
}

}  // namespace moai::plan
