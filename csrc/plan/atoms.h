#pragma once

#include <cstdint>
#include <vector>

#include "ir/graph.h"
#include "ops/rule.h"

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
  int32_t add(int64_t size);
  void unify(const Dim& a, const Dim& b);

  // The atoms that these have been split into, as representatives.
  Dim leaves(const Dim& dim) const;
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
  void collect(int32_t atom, Dim* leaves) const;

  std::vector<Atom> atoms_;
};

// What a graph's rules make of its dimensions: the frame of every plan.
struct Frame {
  Atoms atoms;
  std::vector<ops::Rule> rules;                // by node
  std::vector<std::vector<Dim>> node_factors;  // by node and factor of its rule: leaves
  std::vector<std::vector<Dim>> value_dims;    // by value and dim: leaves
};

// For a graph with canonical views, whose lists are split. Throws Error(Phase::kPlan) as ops::rule_of does.
Frame make_frame(const ir::Graph& graph);

}  // namespace moai::plan
