#include "ops/rule.h"

#include <algorithm>

#include "ir/error.h"
#include "ops/rule_builder.h"
#include "ops/traits.h"

namespace moai::ops {

namespace {

const RuleTable& table() {
  static const auto* rules = [] {
    auto* made = new RuleTable;
    add_pointwise(*made);
    add_views(*made);
    add_contractions(*made);
    add_normalisations(*made);
    add_reductions(*made);
    add_attention(*made);
    add_losses(*made);
    add_indexing(*made);
    add_convolutions(*made);
    add_creation(*made);
    add_optimizers(*made);
    add_host_copies(*made);
    add_routed_rows(*made);
    add_expert_rows(*made);
    return made;
  }();
  return *rules;
}

// `aten.add_.Tensor` as `add_.Tensor`; our own ops keep their namespace.
std::string short_name(const std::string& op) {
  constexpr const char* kAten = "aten.";
  return op.rfind(kAten, 0) == 0 ? op.substr(5) : op;
}

// An op in place means what the op means: `add_.Tensor` has the rule of `add.Tensor`.
std::string out_of_place(const std::string& name) {
  const size_t dot = name.find('.');
  const size_t end = dot == std::string::npos ? name.size() : dot;
  if (end == 0 || name[end - 1] != '_') return name;
  return name.substr(0, end - 1) + name.substr(end);
}

double result_elements(const ir::Graph& graph, const ir::Node& node) {
  double count = 0;
  for (const auto value : node.results) count += static_cast<double>(graph.type(value).numel());
  return count;
}

}  // namespace

bool Rule::splittable(int32_t factor) const {
  const auto& f = factors[factor];
  if (f.whole || f.size < 2) return false;
  for (size_t r = 0; r < results.size(); ++r) {
    if (sharded_by(results[r], factor) < 0 && combine[r][factor] == Combine::kUnknown) return false;
  }
  return true;
}

int32_t Rule::sharded_by(const TensorFactors& tensor, int32_t factor) const {
  const int32_t seen = factors[factor].window.over;
  const int32_t over = seen >= 0 ? seen : factors[factor].trades;
  int32_t found = -1;
  for (const auto& dim : tensor) {
    for (const auto one : dim) {
      if (one == factor) return factor;
      if (one == over) found = over;
    }
  }
  return found;
}

Rule rule_of(const ir::Graph& graph, ir::NodeId id) {
  const ir::Node& node = graph.node(id);
  RuleBuilder builder(graph, node);
  if (node.kind == ir::NodeKind::kView) {
    builder.why_whole("its strides overlap");
    return builder.finish(false);
  }
  if (node.kind == ir::NodeKind::kUpdate) {
    say_update(builder, graph.type(node.results[0]), graph.type(node.operands[1]));
    return builder.finish(true);
  }
  const auto name = short_name(node.op.str());
  auto entry = table().find(name);
  if (entry == table().end()) entry = table().find(out_of_place(name));
  if (entry == table().end()) {
    builder.flops(result_elements(graph, node));
    builder.why_whole("no rule says how it splits");
    return builder.finish(false);
  }
  builder.flops(result_elements(graph, node));
  entry->second(builder);
  return builder.finish(true);
}

std::vector<std::string> ops_with_rules() {
  std::vector<std::string> names;
  for (const auto& [name, entry] : table()) names.push_back(name);
  std::sort(names.begin(), names.end());
  return names;
}

double bytes_moved(const ir::Graph& graph, ir::NodeId id, const Rule& rule) {
  if (rule.free) return 0;
  const ir::Node& node = graph.node(id);
  double bytes = 0;
  const auto add = [&](ir::ValueId value) {
    const auto& type = graph.type(value);
    bytes += static_cast<double>(type.numel()) * static_cast<double>(ir::element_bytes(type.dtype));
  };
  for (const auto value : node.operands) add(value);
  for (const auto value : node.results) add(value);
  return bytes;
}

}  // namespace moai::ops
