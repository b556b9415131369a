#include "ir/view_nodes.h"

namespace moai::ir {

std::optional<ViewStep> step_of(Symbol op, const std::vector<Arg>& args) {
  using Kind = ViewStep::Kind;
  const std::string& name = op.str();
  const auto list = [&](Kind kind) { return ViewStep{kind, std::get<Dims>(args[1])}; };
  if (name == "moai.reshape") return list(Kind::kReshape);
  if (name == "moai.permute") return list(Kind::kPermute);
  if (name == "moai.expand") return list(Kind::kExpand);
  if (name != "moai.slice") return std::nullopt;
  ViewStep step{Kind::kSlice, {}};
  for (size_t i = 1; i < args.size(); ++i) step.dims.push_back(std::get<int64_t>(args[i]));
  return step;
}

}  // namespace moai::ir
