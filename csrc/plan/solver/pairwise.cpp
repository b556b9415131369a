#include "plan/solver/pairwise.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <deque>
#include <limits>
#include <tuple>

#include "plan/solver/min_plus.h"

namespace moai::plan {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// For every variable, its edges in ascending order.
std::vector<std::vector<int32_t>> edges_of(const Pairwise& problem) {
  std::vector<std::vector<int32_t>> edges(problem.unary.size());
  for (size_t e = 0; e < problem.edges.size(); ++e) {
    edges[problem.edges[e].a].push_back(static_cast<int32_t>(e));
    edges[problem.edges[e].b].push_back(static_cast<int32_t>(e));
  }
  return edges;
}

// A table as one of its two variables sees it: own options first.
struct View {
  View(const Pairwise& problem, const Pairwise::Edge& edge, int32_t variable)
      : values(edge.table->data()),
        other(variable == edge.a ? edge.b : edge.a),
        own_stride(variable == edge.a ? problem.options(edge.b) : 1),
        other_stride(variable == edge.a ? 1 : problem.options(edge.b)) {}
  double at(int32_t own, int32_t of_other) const {
    return values[static_cast<ptrdiff_t>(own) * own_stride + static_cast<ptrdiff_t>(of_other) * other_stride];
  }

  const double* values;
  int32_t other;
  int32_t own_stride;
  int32_t other_stride;
};

}  // namespace

double Pairwise::cost(const std::vector<int32_t>& choice) const {
  double total = 0;
  for (int32_t v = 0; v < variables(); ++v) total += unary[v][choice[v]];
  for (const Edge& edge : edges) {
    total += (*edge.table)[static_cast<size_t>(choice[edge.a]) * unary[edge.b].size() + choice[edge.b]];
  }
  return total;
}

Pairwise merge_edges(const FactorGraph& graph, std::vector<std::vector<double>>* loops) {
  Pairwise problem;
  loops->clear();
  for (int32_t v = 0; v < graph.variables(); ++v) {
    problem.unary.push_back(graph.total_costs(v));
    loops->emplace_back(graph.options(v), 0.0);
  }

  // Sorted by pair; the order of the edges within a pair, which decides how sums round, is theirs.
  std::vector<std::tuple<int32_t, int32_t, int32_t>> pairs;
  for (size_t e = 0; e < graph.edges().size(); ++e) {
    const FactorGraph::Edge& edge = graph.edges()[e];
    if (edge.a != edge.b) {
      pairs.emplace_back(std::min(edge.a, edge.b), std::max(edge.a, edge.b), static_cast<int32_t>(e));
      continue;
    }
    for (int32_t i = 0; i < graph.options(edge.a); ++i) {
      const double cost = edge.costs.at(i, i) * edge.repeat;
      (*loops)[edge.a][i] += cost;
    }
  }
  std::sort(pairs.begin(), pairs.end());

  using Part = std::tuple<const void*, bool, double>;  // matrix, transposed, how often
  std::map<std::vector<Part>, Pairwise::Values> tables;
  for (size_t first = 0; first < pairs.size();) {
    const auto [a, b, unused] = pairs[first];
    size_t last = first;
    std::vector<Part> parts;
    for (; last < pairs.size() && std::get<0>(pairs[last]) == a && std::get<1>(pairs[last]) == b; ++last) {
      const FactorGraph::Edge& edge = graph.edges()[std::get<2>(pairs[last])];
      parts.emplace_back(&edge.costs.values(), edge.a != a, edge.repeat);
    }
    Pairwise::Values& table = tables[parts];
    if (!table) {
      const int32_t rows = problem.options(a);
      const int32_t columns = problem.options(b);
      std::vector<double> sums(static_cast<size_t>(rows) * columns);
      for (size_t p = first; p < last; ++p) {
        const FactorGraph::Edge& edge = graph.edges()[std::get<2>(pairs[p])];
        for (int32_t i = 0; i < rows; ++i) {
          for (int32_t j = 0; j < columns; ++j) {
            const double cost = (edge.a == a ? edge.costs.at(i, j) : edge.costs.at(j, i)) * edge.repeat;
            sums[static_cast<size_t>(i) * columns + j] += cost;
          }
        }
      }
      table = std::make_shared<const std::vector<double>>(std::move(sums));
    }
    problem.edges.push_back({a, b, table});
    first = last;
  }
  return problem;
}

int32_t TableCuts::id_of(const std::vector<int32_t>& options) {
  return ids_.emplace(options, static_cast<int32_t>(ids_.size())).first->second;
}

Pairwise::Values TableCuts::cut(const Pairwise::Values& table, const std::vector<int32_t>& rows,
                                const std::vector<int32_t>& columns, int32_t all_rows, int32_t all_columns) {
  if (rows.size() == static_cast<size_t>(all_rows) && columns.size() == static_cast<size_t>(all_columns)) {
    return table;
  }
  Pairwise::Values& cut = cuts_[{table.get(), {id_of(rows), id_of(columns)}}];
  if (!cut) {
    std::vector<double> values;
    values.reserve(rows.size() * columns.size());
    for (const int32_t row : rows) {
      const double* from = table->data() + static_cast<ptrdiff_t>(row) * all_columns;
      for (const int32_t column : columns) values.push_back(from[column]);
    }
    cut = std::make_shared<const std::vector<double>>(std::move(values));
    sources_.push_back(table);
  }
  return cut;
}

Pairwise restrict_options(const Pairwise& problem, const KeptOptions& options) {
  Pairwise restricted;
  for (int32_t v = 0; v < problem.variables(); ++v) {
    std::vector<double> costs;
    costs.reserve(options[v].size());
    for (const int32_t i : options[v]) costs.push_back(problem.unary[v][i]);
    restricted.unary.push_back(std::move(costs));
  }
  TableCuts cuts;
  for (const Pairwise::Edge& edge : problem.edges) {
    restricted.edges.push_back({edge.a, edge.b,
                                cuts.cut(edge.table, options[edge.a], options[edge.b],
                                         problem.options(edge.a), problem.options(edge.b))});
  }
  return restricted;
}

int32_t remove_forbidden(const Pairwise& problem, KeptOptions* options) {
  for (int32_t v = 0; v < problem.variables(); ++v) {
    std::vector<int32_t>& own = (*options)[v];
    own.erase(
        std::remove_if(own.begin(), own.end(), [&](int32_t i) { return problem.unary[v][i] == kInfinity; }),
        own.end());
    if (own.empty()) return v;
  }
  std::map<const void*, bool> forbids;  // tables without an infinity need no look
  const auto edges = edges_of(problem);
  std::deque<int32_t> changed;
  std::vector<char> queued(problem.unary.size(), 1);
  for (int32_t v = 0; v < problem.variables(); ++v) changed.push_back(v);
  while (!changed.empty()) {
    const int32_t u = changed.front();
    changed.pop_front();
    queued[u] = 0;
    for (const int32_t e : edges[u]) {
      const Pairwise::Edge& edge = problem.edges[e];
      const auto [known, is_new] = forbids.emplace(edge.table.get(), false);
      if (is_new) {
        known->second = std::find(edge.table->begin(), edge.table->end(), kInfinity) != edge.table->end();
      }
      if (!known->second) continue;
      const int32_t v = edge.a == u ? edge.b : edge.a;
      const View view(problem, edge, v);
      std::vector<int32_t>& own = (*options)[v];
      const auto has_no_partner = [&](int32_t i) {
        return std::all_of((*options)[u].begin(), (*options)[u].end(),
                           [&](int32_t j) { return view.at(i, j) == kInfinity; });
      };
      const auto end = std::remove_if(own.begin(), own.end(), has_no_partner);
      if (end == own.end()) continue;
      own.erase(end, own.end());
      if (own.empty()) return v;
      if (!queued[v]) changed.push_back(v);
      queued[v] = 1;
    }
  }
  return -1;
}

namespace {

// What the other end of a table adds: out[i] = min over the other's options j of table(i, j) + add[j].
class OtherEnd {
 public:
  explicit OtherEnd(const Pairwise& problem) {
    size_t most = 0;
    for (const auto& costs : problem.unary) most = std::max(most, costs.size());
    all_.resize(most);
    base_.resize(most);
    rows_.resize(most);
  }

  void least(const View& view, int32_t own, int32_t other, const std::vector<int32_t>& others,
             const std::vector<double>& add, std::vector<double>* out) {
    if (view.other_stride == 1) {
      std::fill(all_.begin(), all_.end(), kInfinity);
      for (size_t j = 0; j < others.size(); ++j) all_[others[j]] = add[j];
      for (int32_t i = 0; i < own; ++i) {
        (*out)[i] = min_plus_row(view.values + static_cast<ptrdiff_t>(i) * other, all_.data(), other);
      }
      return;
    }
    int32_t kept = 0;
    for (size_t j = 0; j < others.size(); ++j) {
      if (add[j] == kInfinity) continue;
      base_[kept] = add[j];
      rows_[kept++] = view.values + static_cast<ptrdiff_t>(others[j]) * own;
    }
    min_plus_rows(base_.data(), rows_.data(), kept, own, out->data());
  }

 private:
  std::vector<double> all_;
  std::vector<double> base_;
  std::vector<const double*> rows_;
};

}  // namespace

void remove_dominated(const Pairwise& problem, KeptOptions* options) {
  const auto edges = edges_of(problem);
  OtherEnd other_end(problem);
  std::vector<double> promise;
  std::vector<double> saved;
  std::vector<double> add;
  std::vector<double> of_edge;
  for (int32_t v = 0; v < problem.variables(); ++v) {
    std::vector<int32_t>& own = (*options)[v];
    if (own.size() < 2) continue;
    const int32_t count = problem.options(v);
    of_edge.resize(count);

    // The option that would be cheapest if every neighbour obliged.
    promise = problem.unary[v];
    for (const int32_t e : edges[v]) {
      const View view(problem, problem.edges[e], v);
      const std::vector<int32_t>& others = (*options)[view.other];
      add.assign(others.size(), 0);
      other_end.least(view, count, problem.options(view.other), others, add, &of_edge);
      for (int32_t i = 0; i < count; ++i) promise[i] += of_edge[i];
    }
    const int32_t best = *std::min_element(own.begin(), own.end(),
                                           [&](int32_t i, int32_t j) { return promise[i] < promise[j]; });

    // What it at least saves over each other option.
    saved = problem.unary[v];
    for (double& cost : saved) cost -= problem.unary[v][best];
    for (const int32_t e : edges[v]) {
      const View view(problem, problem.edges[e], v);
      const std::vector<int32_t>& others = (*options)[view.other];
      add.clear();
      for (const int32_t j : others) {
        const double of_best = view.at(best, j);
        add.push_back(of_best == kInfinity ? kInfinity : -of_best);
      }
      other_end.least(view, count, problem.options(view.other), others, add, &of_edge);
      for (int32_t i = 0; i < count; ++i) saved[i] += of_edge[i];
      // A partner that only the other option allows.
      for (size_t k = 0; k < others.size(); ++k) {
        if (add[k] < kInfinity) continue;
        for (int32_t i = 0; i < count; ++i) {
          if (view.at(i, others[k]) < kInfinity) saved[i] = -kInfinity;
        }
      }
    }
    own.erase(
        std::remove_if(own.begin(), own.end(),
                       [&](int32_t i) { return i != best && (saved[i] > 0 || (saved[i] == 0 && best < i)); }),
        own.end());
  }
}

}  // namespace moai::plan
