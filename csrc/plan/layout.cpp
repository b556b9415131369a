#include "plan/layout.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "ir/error.h"

namespace moai::plan {

namespace {

AxisUse use_of(const Step& step, const Assignment& assignment, size_t axis, int32_t size) {
  AxisUse use;
  use.size = size;
  double total = 0;
  for (size_t n = 0; n < step.graph.nodes().size(); ++n) {
    const double flops = step.frame.rules[n].flops;
    const auto& choice = assignment.nodes[n].choices[axis];
    total += flops;
    if (choice.kind != AxisChoice::Kind::kFactor) {
      use.whole += flops;
      continue;
    }
    switch (step.roles.of_atom[step.frame.node_factors[n][choice.factor][choice.leaf]]) {
      case Role::kBatch: use.data += flops; break;
      case Role::kSequence: use.sequence += flops; break;
      case Role::kExpert: use.expert += flops; break;
      case Role::kFeature: use.tensor += flops; break;
    }
  }
  const std::pair<double*, const char*> shares[] = {{&use.data, "data"},
                                                    {&use.sequence, "sequence"},
                                                    {&use.expert, "expert"},
                                                    {&use.tensor, "tensor"},
                                                    {&use.whole, "whole"}};
  double most = -1;
  for (const auto& [share, name] : shares) {
    if (total > 0) *share /= total;
    if (*share > most) {
      most = *share;
      use.name = name;
    }
  }
  double whole = 0, local = 0;
  for (size_t i = 0; i < step.graph.inputs().size(); ++i) {
    if (step.roles.of_input[i] == InputRole::kData) continue;
    const auto bytes = static_cast<double>(step.graph.type(step.graph.inputs()[i]).bytes());
    whole += bytes;
    local += assignment.inputs[i][axis].kind == Split::Kind::kShard ? bytes / size : bytes;
  }
  use.states_in = local > 0 ? whole / local : 1;
  return use;
}

std::string where(const Split& split) {
  return split.kind == Split::Kind::kShard ? concat("shard dim ", split.dim) : "replicate";
}

}  // namespace

std::vector<AxisUse> axis_uses(const Step& step, const Mesh& mesh, const Assignment& assignment) {
  std::vector<AxisUse> uses;
  for (size_t a = 0; a < mesh.axes.size(); ++a)
    uses.push_back(use_of(step, assignment, a, mesh.axes[a].size));
  return uses;
}

std::vector<TensorGroup> tensor_groups(const Step& step, const Mesh& mesh, const std::vector<AxisUse>& axes,
                                       const Assignment& assignment) {
  std::map<std::tuple<InputRole, std::string, std::string>, TensorGroup> groups;
  for (size_t i = 0; i < step.graph.inputs().size(); ++i) {
    const auto& type = step.graph.type(step.graph.inputs()[i]);
    TensorGroup group;
    group.role = step.roles.of_input[i];
    group.type = type.str();
    for (size_t a = 0; a < mesh.axes.size(); ++a)
      group.placement +=
          concat(a == 0 ? "" : "; ", axes[a].name, " ", axes[a].size, ": ", where(assignment.inputs[i][a]));
    auto& kept =
        groups.emplace(std::make_tuple(group.role, group.type, group.placement), group).first->second;
    ++kept.count;
    kept.bytes += static_cast<double>(type.bytes());
  }
  std::vector<TensorGroup> all;
  all.reserve(groups.size());
  for (auto& [key, group] : groups) all.push_back(std::move(group));
  std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
  return all;
}

}  // namespace moai::plan
