#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "ir/graph.h"
#include "ops/rule.h"
#include "plan/repeated.h"

namespace moai::plan {

// A dimension as an ordered list of atoms, outermost first.
using Dim = std::vector<int32_t>;

// The factors of dimensions, global to a graph.
//
// `unify` says that two lists are one dimension: it splits atoms where the lists have boundaries at other
// places (walking both from the inside, where a boundary of one divides what is left of the other), and joins
// equal ones. Union-find over trees of splits; near-linear. Where sizes do not divide each other the atoms up
// to the next common boundary become opaque: no split passes.
class Atoms {
 public:
  int32_t add(int64_t size, bool opaque = false);
  void unify(const Dim& a, const Dim& b);

  // The atoms that these have been split into, as representatives.
  Dim leaves(const Dim& dim) const;
  // Puts them in a dimension's place.
  void resolve(Dim* dim) const;
  int64_t size(int32_t atom) const { return atoms_[find(atom)].size; }
  // For another batch: every list that holds the atom changes with it.
  void resize(int32_t atom, int64_t size) { atoms_[find(atom)].size = size; }
  bool opaque(int32_t atom) const { return atoms_[find(atom)].opaque; }
  int32_t count() const { return static_cast<int32_t>(atoms_.size()); }

 private:
  struct Atom {
    int64_t size;
    mutable int32_t parent;
    int32_t outer = -1;  // when split
    int32_t inner = -1;
    bool opaque = false;
  };

  int32_t find(int32_t atom) const;
  void split(int32_t atom, int64_t inner_size);
  void join(int32_t a, int32_t b);
  // Joins two atoms of one size that nothing has split; false where the lists are more than that.
  bool join_whole(const Dim& a, const Dim& b);
  void collect(int32_t atom, Dim* leaves) const;

  std::vector<Atom> atoms_;
};

// A list that is read alone, and whose copies share its elements.
template <typename List>
class Shared {
 public:
  Shared() : all_(std::make_shared<const List>()) {}
  Shared(List all) : all_(std::make_shared<const List>(std::move(all))) {}  // NOLINT

  const auto& operator[](size_t i) const { return (*all_)[i]; }
  size_t size() const { return all_->size(); }
  const List& all() const { return *all_; }

 private:
  std::shared_ptr<const List> all_;
};

// The sizes of a value's atoms, by dim.
using LeafSizes = std::vector<std::vector<int64_t>>;

// What a graph's rules make of its dimensions: the frame of every plan.
struct Frame {
  Atoms atoms;
  Shared<Repeated<ops::Rule>> rules;                   // by node
  Shared<std::vector<std::vector<Dim>>> node_factors;  // by node and factor of its rule: leaves
  Shared<std::vector<std::vector<Dim>>> value_dims;    // by value and dim: leaves
  Shared<Repeated<LeafSizes>> value_sizes;             // of these
  // By value: the dim whose rows are in an order that each part has of its own (Note [Routed rows]), or -1.
  Shared<std::vector<int32_t>> own_order;

  // The same graph with an atom of another size.
  Frame resized(int32_t atom, int64_t size) const;
};

// For a graph with canonical views, whose lists are split. Throws Error(Phase::kPlan) as ops::rule_of does.
Frame make_frame(const ir::Graph& graph);

}  // namespace moai::plan
