#include "plan/solver/exact.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <memory>
#include <utility>

#include "ir/error.h"
#include "plan/solver/min_plus.h"

namespace moai::plan {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

}  // namespace

Elimination::Elimination(const Pairwise& problem, const std::vector<int32_t>& order)
    : unary_(problem.unary),
      order_(order),
      position_(problem.unary.size(), -1),
      buckets_(problem.unary.size()) {
  int32_t position = 0;
  for (const int32_t v : order) position_[v] = position++;
  for (int32_t v = 0; v < problem.variables(); ++v) {
    if (position_[v] >= 0) continue;
    position_[v] = position++;
    left_.push_back(v);
  }
  for (const Pairwise::Edge& edge : problem.edges) {
    // A variable with one option is no dimension of any table.
    if (unary_[edge.a].size() == 1) {
      add_row(edge.table->data(), options(edge.b), unary_[edge.b].data());
      continue;
    }
    if (unary_[edge.b].size() == 1) {
      add_row(edge.table->data(), options(edge.a), unary_[edge.a].data());
      continue;
    }
    if (position_[edge.a] < position_[edge.b]) {
      add({edge.a, edge.b}, edge.table);
    } else {
      add({edge.b, edge.a}, transposed(edge));
    }
  }
  for (const int32_t v : order) {
    eliminate(v);
    if (blocked_ >= 0) return;
  }
}

Pairwise::Values Elimination::transposed(const Pairwise::Edge& edge) {
  Pairwise::Values& table = transposed_[edge.table.get()];
  if (!table) {
    const size_t rows = unary_[edge.a].size();
    const size_t columns = unary_[edge.b].size();
    std::vector<double> values(rows * columns);
    for (size_t i = 0; i < rows; ++i) {
      for (size_t j = 0; j < columns; ++j) values[j * rows + i] = (*edge.table)[i * columns + j];
    }
    table = std::make_shared<const std::vector<double>>(std::move(values));
  }
  return table;
}

void Elimination::add(std::vector<int32_t> scope, Pairwise::Values values) {
  std::vector<int64_t> strides(scope.size(), 1);
  for (size_t d = scope.size() - 1; d > 0; --d) strides[d - 1] = strides[d] * options(scope[d]);
  const int32_t first = scope.front();
  buckets_[first].push_back({std::move(scope), std::move(strides), std::move(values)});
}

void Elimination::eliminate(int32_t variable) {
  std::vector<int32_t> around;
  for (const Table& table : buckets_[variable]) {
    around.insert(around.end(), table.scope.begin() + 1, table.scope.end());
  }
  std::sort(around.begin(), around.end(), [&](int32_t a, int32_t b) { return position_[a] < position_[b]; });
  around.erase(std::unique(around.begin(), around.end()), around.end());

  if (around.empty()) {
    const double least = *std::min_element(unary_[variable].begin(), unary_[variable].end());
    if (least == kInfinity) blocked_ = variable;
    constant_ += least;
    return;
  }
  size_t entries = 1;
  for (const int32_t u : around) entries *= static_cast<size_t>(options(u));
  std::vector<double> out(entries);
  if (!fill_table(variable, around, &out)) {
    blocked_ = variable;
  } else if (around.size() == 1) {
    add_row(out.data(), options(around[0]), unary_[around[0]].data());
  } else {
    add(std::move(around), std::make_shared<const std::vector<double>>(std::move(out)));
  }
}

// Walks over the choices of all neighbours but the last, whose choices are the contiguous rows of the
// tables it is part of. False if no choice is possible.
bool Elimination::fill_table(int32_t variable, const std::vector<int32_t>& around, std::vector<double>* out) {
  struct Walk {
    const double* values;        // at the present choice of the neighbours walked over
    int64_t stride;              // per option of the variable
    std::vector<int64_t> steps;  // per option of each neighbour walked over
  };
  const size_t walked = around.size() - 1;
  std::vector<Walk> with_last;
  std::vector<Walk> without_last;
  for (const Table& table : buckets_[variable]) {
    Walk walk{table.values->data(), table.strides[0], std::vector<int64_t>(walked, 0)};
    for (size_t d = 0; d < walked; ++d) {
      const auto found = std::find(table.scope.begin() + 1, table.scope.end(), around[d]);
      if (found != table.scope.end()) walk.steps[d] = table.strides[found - table.scope.begin()];
    }
    (table.scope.back() == around.back() ? with_last : without_last).push_back(std::move(walk));
  }

  const int32_t count = options(variable);
  const int32_t length = options(around.back());
  const std::vector<double>& own = unary_[variable];
  std::vector<double> base(count);
  std::vector<double> allowed(count);      // the finite ones of `base`
  std::vector<const double*> rows(count);  // and their rows
  std::vector<double> sums(with_last.size() > 1 ? static_cast<size_t>(count) * length : 0);
  std::vector<int32_t> choice(walked, 0);
  double lowest = kInfinity;
  for (double* to = out->data(); to != out->data() + out->size(); to += length) {
    std::copy(own.begin(), own.end(), base.begin());
    for (const Walk& walk : without_last) {
      for (int32_t i = 0; i < count; ++i) base[i] += walk.values[i * walk.stride];
    }
    int32_t kept = 0;
    for (int32_t i = 0; i < count; ++i) {
      if (base[i] == kInfinity) continue;
      const double* row = with_last[0].values + i * with_last[0].stride;
      if (with_last.size() > 1) {
        double* sum = sums.data() + static_cast<ptrdiff_t>(kept) * length;
        std::copy(row, row + length, sum);
        for (size_t t = 1; t < with_last.size(); ++t) {
          add_row(with_last[t].values + i * with_last[t].stride, length, sum);
        }
        row = sum;
      }
      allowed[kept] = base[i];
      rows[kept++] = row;
    }
    min_plus_rows(allowed.data(), rows.data(), kept, length, to);
    if (lowest == kInfinity) lowest = *std::min_element(to, to + length);

    for (size_t d = walked; d-- > 0;) {  // the next choice, the last neighbour fastest
      const bool wraps = ++choice[d] == options(around[d]);
      const int64_t back = wraps ? options(around[d]) : 0;
      for (std::vector<Walk>* walks : {&with_last, &without_last}) {
        for (Walk& walk : *walks) walk.values += walk.steps[d] - back * walk.steps[d];
      }
      if (!wraps) break;
      choice[d] = 0;
    }
  }
  return lowest < kInfinity;
}

Pairwise Elimination::rest() const {
  std::vector<int32_t> index(position_.size(), -1);
  Pairwise rest;
  for (const int32_t v : left_) {
    index[v] = rest.variables();
    rest.unary.push_back(unary_[v]);
  }
  // Positions of those left ascend with their indices, so a scope is (lower, higher).
  std::map<std::pair<int32_t, int32_t>, std::vector<Pairwise::Values>> parts;
  for (const int32_t v : left_) {
    for (const Table& table : buckets_[v]) {
      MOAI_ASSERT(table.scope.size() == 2, "a table over ", table.scope.size(), " variables is left");
      parts[{index[table.scope[0]], index[table.scope[1]]}].push_back(table.values);
    }
  }
  for (const auto& [pair, tables] : parts) {
    if (tables.size() == 1) {
      rest.edges.push_back({pair.first, pair.second, tables[0]});
      continue;
    }
    std::vector<double> sum = *tables[0];
    for (size_t t = 1; t < tables.size(); ++t) {
      for (size_t k = 0; k < sum.size(); ++k) sum[k] += (*tables[t])[k];
    }
    rest.edges.push_back(
        {pair.first, pair.second, std::make_shared<const std::vector<double>>(std::move(sum))});
  }
  return rest;
}

std::vector<double> Elimination::costs_given(int32_t variable, const std::vector<int32_t>& choice) const {
  std::vector<double> costs = unary_[variable];
  for (const Table& table : buckets_[variable]) {
    int64_t at = 0;
    for (size_t d = 1; d < table.scope.size(); ++d) at += choice[table.scope[d]] * table.strides[d];
    for (size_t i = 0; i < costs.size(); ++i)
      costs[i] += (*table.values)[at + static_cast<int64_t>(i) * table.strides[0]];
  }
  return costs;
}

void Elimination::complete(std::vector<int32_t>* choice) const {
  for (auto v = order_.rbegin(); v != order_.rend(); ++v) {
    const std::vector<double> costs = costs_given(*v, *choice);
    (*choice)[*v] = static_cast<int32_t>(std::min_element(costs.begin(), costs.end()) - costs.begin());
  }
}

}  // namespace moai::plan
