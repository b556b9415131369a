#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "compile/local/local_op.h"

namespace moai::compile {

// Which part of each factor of an op's rule a device has. It points to the op.
class FactorParts {
 public:
  explicit FactorParts(const LocalOp& op) : op_(op) {}

  // The axes that split atom `leaf` of a factor, or any of its atoms; ascending.
  std::vector<int64_t> axes(size_t factor, std::optional<size_t> leaf = {}) const;
  bool is_split(size_t factor) const { return !axes(factor).empty(); }

  // How many indices it has, of all atoms or of those inside the outermost.
  int64_t size(size_t factor) const { return size_from(factor, 0); }
  int64_t inner_size(size_t factor) const { return size_from(factor, 1); }
  // The run of indices of a factor whose outermost atom alone is split.
  Part run_of(size_t factor) const;
  // The size of its outermost atom.
  int64_t outermost(size_t factor) const { return op_.frame.atoms.size(op_.factors[factor][0]); }

 private:
  int64_t size_from(size_t factor, size_t first) const;

  const LocalOp& op_;
};

// A run of an atom's indices.
struct AtomPart {
  int64_t whole;
  Part part;
};

// Where an op's first result lies in the whole one: by atom, outermost first, that of turns among them.
std::vector<AtomPart> place_of_result(const LocalOp& op);

}  // namespace moai::compile
