#include "plan/atoms.h"

#include <algorithm>

#include "ir/arg.h"
#include "ops/expert_rows.h"
#include "ops/routed_rows.h"
#include "plan/rules_of_graph.h"

namespace moai::plan {

int32_t Atoms::add(int64_t size, bool opaque) {
  const auto id = static_cast<int32_t>(atoms_.size());
  atoms_.push_back({size, id});
  atoms_[id].opaque = opaque;
  return id;
}

int32_t Atoms::find(int32_t atom) const {
  while (atoms_[atom].parent != atom) {
    atoms_[atom].parent = atoms_[atoms_[atom].parent].parent;
    atom = atoms_[atom].parent;
  }
  return atom;
}

void Atoms::collect(int32_t atom, Dim* leaves) const {
  atom = find(atom);
  if (atoms_[atom].outer < 0) {
    leaves->push_back(atom);
    return;
  }
  collect(atoms_[atom].outer, leaves);
  collect(atoms_[atom].inner, leaves);
}

Dim Atoms::leaves(const Dim& dim) const {
  Dim out;
  for (const auto atom : dim) collect(atom, &out);
  return out;
}

void Atoms::resolve(Dim* dim) const {
  if (dim->size() == 1 && atoms_[find(dim->front())].outer < 0) {
    dim->front() = find(dim->front());
  } else {
    *dim = leaves(*dim);
  }
}

void Atoms::split(int32_t atom, int64_t inner_size) {
  const bool opaque = atoms_[atom].opaque;
  const int32_t outer = add(atoms_[atom].size / inner_size);
  const int32_t inner = add(inner_size);
  atoms_[outer].opaque = atoms_[inner].opaque = opaque;
  atoms_[atom].outer = outer;
  atoms_[atom].inner = inner;
}

// Both are leaves of one size. The older one stands for both, so that the result does not depend on who asks.
void Atoms::join(int32_t a, int32_t b) {
  if (a == b) return;
  if (b < a) std::swap(a, b);
  atoms_[b].parent = a;
  atoms_[a].opaque = atoms_[a].opaque || atoms_[b].opaque;
}

bool Atoms::join_whole(const Dim& a, const Dim& b) {
  if (a.size() != 1 || b.size() != 1) return false;
  const int32_t x = find(a[0]), y = find(b[0]);
  if (atoms_[x].outer >= 0 || atoms_[y].outer >= 0 || atoms_[x].size != atoms_[y].size) return false;
  join(x, y);
  return true;
}

void Atoms::unify(const Dim& a, const Dim& b) {
  if (join_whole(a, b)) return;  // most are
  Dim left = leaves(a), right = leaves(b);
  while (!left.empty() && !right.empty()) {
    const int32_t x = find(left.back()), y = find(right.back());
    // A split or a join above may have split an atom that is in both lists.
    if (atoms_[x].outer >= 0 || atoms_[y].outer >= 0) {
      left = leaves(left);
      right = leaves(right);
      continue;
    }
    const int64_t sx = atoms_[x].size, sy = atoms_[y].size;
    if (sx == sy) {
      join(x, y);
      left.pop_back();
      right.pop_back();
    } else if (sx > sy && sy > 0 && sx % sy == 0) {
      split(x, sy);
    } else if (sy > sx && sx > 0 && sy % sx == 0) {
      split(y, sx);
    } else {
      // No boundary in common here: up to the next one nothing passes.
      int64_t product_left = 1, product_right = 1;
      do {
        auto& shorter = product_left <= product_right ? left : right;
        auto& product = product_left <= product_right ? product_left : product_right;
        if (shorter.empty()) break;
        const int32_t atom = find(shorter.back());
        product *= atoms_[atom].size;
        atoms_[atom].opaque = true;
        shorter.pop_back();
      } while (product_left != product_right);
    }
  }
}

namespace {

// Values of equal layers share theirs.
Repeated<LeafSizes> sizes_of(const Atoms& atoms, const std::vector<std::vector<Dim>>& value_dims) {
  Repeated<LeafSizes> sizes;
  FirstOfLike known;
  for (size_t v = 0; v < value_dims.size(); ++v) {
    const std::vector<Dim>& dims = value_dims[v];
    uint64_t hash = dims.size();
    for (const auto& dim : dims) {
      hash = ir::mix(hash, dim.size());
      for (const auto atom : dim) hash = ir::mix(hash, ir::bits(atoms.size(atom)));
    }
    const auto is_like = [&](size_t other) {
      const auto has = [&](int64_t size, int32_t atom) { return size == atoms.size(atom); };
      const auto same = [&](const std::vector<int64_t>& leaves, const Dim& dim) {
        return std::equal(leaves.begin(), leaves.end(), dim.begin(), dim.end(), has);
      };
      const LeafSizes& all = sizes[other];
      return std::equal(all.begin(), all.end(), dims.begin(), dims.end(), same);
    };
    const size_t like = known.place(hash, v, is_like);
    if (like != v) {
      sizes.push_again(sizes.number(like));
      continue;
    }
    LeafSizes own;
    for (const auto& dim : dims) {
      own.emplace_back();
      for (const auto atom : dim) own.back().push_back(atoms.size(atom));
    }
    sizes.push_back(std::move(own));
  }
  return sizes;
}

// An order goes with the factors of its rows, until an op puts them back.
std::vector<int32_t> own_orders(const ir::Graph& graph, const Repeated<ops::Rule>& rules) {
  std::vector<int32_t> order(graph.values().size(), -1);
  for (size_t n = 0; n < graph.nodes().size(); ++n) {
    const ir::Node& node = graph.nodes()[n];
    if (ops::ends_order(node.op)) continue;
    if (node.op == ops::routed_rows().sort || ops::moves_rows(node.op)) {
      for (const auto result : node.results) order[result] = 0;
      continue;
    }
    for (size_t o = 0; o < node.operands.size(); ++o) {
      const int32_t dim = order[node.operands[o]];
      if (dim < 0 || rules[n].operands[o][dim].empty()) continue;
      const std::vector<int32_t>& rows = rules[n].operands[o][dim];
      for (size_t r = 0; r < node.results.size(); ++r) {
        const ops::TensorFactors& result = rules[n].results[r];
        // The innermost factor: of rows in slots the outer ones are other tensors' dims, too.
        const auto has_rows = [&](const std::vector<int32_t>& of_dim) {
          return std::find(of_dim.begin(), of_dim.end(), rows.back()) != of_dim.end();
        };
        const auto at = std::find_if(result.begin(), result.end(), has_rows);
        if (at != result.end()) order[node.results[r]] = static_cast<int32_t>(at - result.begin());
      }
    }
  }
  return order;
}

}  // namespace

Frame Frame::resized(int32_t atom, int64_t size) const {
  Frame other = *this;
  other.atoms.resize(atom, size);
  other.value_sizes = sizes_of(other.atoms, value_dims.all());
  return other;
}

Frame make_frame(const ir::Graph& graph) {
  Frame frame;
  Repeated<ops::Rule> rules = rules_of_graph(graph);
  std::vector<std::vector<Dim>> dims(graph.values().size());
  for (size_t v = 0; v < dims.size(); ++v) {
    for (const auto size : graph.values()[v].type.sizes)
      dims[v].push_back(size == 1 ? Dim{} : Dim{frame.atoms.add(size)});
  }
  std::vector<std::vector<Dim>> factors(graph.nodes().size());
  for (size_t n = 0; n < graph.nodes().size(); ++n) {
    const ir::Node& node = graph.nodes()[n];
    const ops::Rule& rule = rules[n];
    for (const auto& factor : rule.factors)
      factors[n].push_back({frame.atoms.add(factor.size, factor.indivisible)});
    const auto unify = [&](const ops::TensorFactors& tensor, ir::ValueId value) {
      for (size_t d = 0; d < tensor.size(); ++d) {
        Dim of_rule;
        for (const auto f : tensor[d]) of_rule.push_back(factors[n][f][0]);
        frame.atoms.unify(of_rule, dims[value][d]);
      }
    };
    for (size_t o = 0; o < node.operands.size(); ++o) unify(rule.operands[o], node.operands[o]);
    for (size_t r = 0; r < node.results.size(); ++r) unify(rule.results[r], node.results[r]);
  }
  const auto resolve = [&](std::vector<std::vector<Dim>>& all) {
    for (auto& tensor : all) {
      for (auto& dim : tensor) frame.atoms.resolve(&dim);
    }
  };
  resolve(dims);
  resolve(factors);
  frame.own_order = own_orders(graph, rules);
  frame.rules = std::move(rules);
  frame.value_dims = std::move(dims);
  frame.node_factors = std::move(factors);
  frame.value_sizes = sizes_of(frame.atoms, frame.value_dims.all());
  return frame;
}

}  // namespace moai::plan
