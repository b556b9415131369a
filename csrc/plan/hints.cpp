#include "plan/hints.h"

#include <algorithm>
#include <utility>

#include "ir/error.h"
#include "plan/options.h"

namespace moai::plan {

namespace {

using K = Split::Kind;

Role role_of(const ir::Hint& hint) {
  const std::string& name = hint.axis.str();
  if (name == "data") return Role::kBatch;
  if (name == "sequence") return Role::kSequence;
  if (name == "expert") return Role::kExpert;
  if (name == "tensor") return Role::kFeature;
  throw Error(Phase::kPlan, concat("a hint for axes called \"", name, "\", which there are not"))
      .hint("would work: data, sequence, expert or tensor");
}

bool is_for(const Axis& axis, Role role) {
  const bool within_batch = role == Role::kBatch || role == Role::kExpert;
  return axis.size > 1 && axis.may_split(role) && (within_batch || !axis.may_split(Role::kBatch));
}

}  // namespace

std::vector<Placement> hinted(const ir::Graph& graph, int32_t input, const Mesh& mesh,
                              std::vector<Placement> placements) {
  for (const auto& hint : graph.hints()) {
    if (hint.input != input) continue;
    for (size_t a = 0; a < mesh.axes.size(); ++a) {
      if (!is_for(mesh.axes[a], role_of(hint))) continue;
      prefer(&placements, [&](const Placement& placement) {
        const bool is_cut = placement[a].kind == K::kShard;
        return hint.dim == ir::kNone ? !is_cut : is_cut && placement[a].dim == hint.dim;
      });
    }
  }
  return placements;
}

void check_hints(const ir::Graph& graph, const Frame& frame) {
  for (const auto& hint : graph.hints()) {
    role_of(hint);
    if (hint.dim == ir::kNone) continue;
    const ir::ValueId input = graph.inputs()[hint.input];
    const auto& atoms = frame.value_dims[input][hint.dim];
    const bool can_be = std::any_of(atoms.begin(), atoms.end(), [&](int32_t atom) {
      return frame.atoms.size(atom) > 1 && !frame.atoms.opaque(atom);
    });
    if (can_be) continue;
    throw Error(Phase::kPlan, concat("a hint asks to cut ", graph.type(input).str(), " along dim ", hint.dim,
                                     ", which no op splits"))
        .hint("would work: another dim, or None to leave it whole");
  }
}

}  // namespace moai::plan
