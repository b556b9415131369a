#include "compile/local/factor_parts.h"

#include "ir/error.h"

namespace moai::compile {

using plan::AxisChoice;

std::vector<int64_t> FactorParts::axes(size_t factor, std::optional<size_t> leaf) const {
  std::vector<int64_t> found;
  for (size_t a = 0; a < op_.option.choices.size(); ++a) {
    const auto& choice = op_.option.choices[a];
    const bool is_here = !leaf || static_cast<size_t>(choice.leaf) == *leaf;
    if (choice.kind == AxisChoice::Kind::kFactor && static_cast<size_t>(choice.factor) == factor && is_here)
      found.push_back(static_cast<int64_t>(a));
  }
  return found;
}

int64_t FactorParts::size_from(size_t factor, size_t first) const {
  int64_t size = 1;
  for (size_t k = first; k < op_.factors[factor].size(); ++k)
    size *= op_.place.part(op_.frame.atoms.size(op_.factors[factor][k]), axes(factor, k)).length;
  return size;
}

Part FactorParts::run_of(size_t factor) const {
  Part part{0, 1};
  for (size_t k = 0; k < op_.factors[factor].size(); ++k) {
    const int64_t size = op_.frame.atoms.size(op_.factors[factor][k]);
    const Part own = op_.place.part(size, axes(factor, k));
    MOAI_ASSERT(k == 0 || own.length == size, "a part that is no run of indices");
    part = {part.start * size + own.start, part.length * own.length};
  }
  return part;
}

std::vector<AtomPart> place_of_result(const LocalOp& op) {
  const auto value = op.node.results[0];
  const auto sizes = plan::leaf_sizes(op.frame, value);
  const auto parts = parts_of(op.place, sizes, op.option.results[0]);
  std::vector<AtomPart> place;
  for (size_t d = 0; d < sizes.size(); ++d) {
    const int64_t turned = op.turn.leaf_of(op.frame.value_dims[value][d]);
    for (size_t k = 0; k < sizes[d].size(); ++k) {
      if (static_cast<int64_t>(k) == turned) place.push_back({op.turn.count, {op.turn.index, 1}});
      place.push_back({sizes[d][k], parts[d][k]});
    }
  }
  return place;
}

}  // namespace moai::compile
