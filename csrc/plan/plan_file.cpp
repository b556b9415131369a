#include "plan/plan_file.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>
#include <utility>

#include "ir/error.h"
#include "plan/cluster/json.h"
#include "plan/send_rows.h"

namespace moai::plan {

namespace {

constexpr int32_t kVersion = 1;
constexpr const char* kWhole = "whole";
constexpr const char* kPartial = "partial";
constexpr const char* kReplicate = "replicate";
constexpr const char* kShard = "shard ";
constexpr const char* kAtOnce = "at once";

// A factor's name in the file: its own where that tells it apart, else its number.
std::string factor_label(const ops::Rule& rule, size_t factor) {
  const std::string& name = rule.factors[factor].name;
  size_t same = 0;
  for (const auto& other : rule.factors) same += other.name == name;
  return name.empty() || same > 1 ? concat("#", factor) : name;
}

std::string choice_text(const Step& step, ir::NodeId node, const AxisChoice& choice) {
  if (choice.kind == AxisChoice::Kind::kWhole) return kWhole;
  if (choice.kind == AxisChoice::Kind::kLinear) return concat(kPartial, "@", choice.factor);
  const std::string label = factor_label(step.frame.rules[node], choice.factor);
  return step.frame.node_factors[node][choice.factor].size() > 1 ? concat(label, "@", choice.leaf) : label;
}

std::string split_text(const Step& step, ir::ValueId value, const Split& split) {
  if (split.kind != Split::Kind::kShard) return kReplicate;
  const bool many = step.frame.value_dims[value][split.dim].size() > 1;
  return many ? concat(kShard, split.dim, "@", split.leaf) : concat(kShard, split.dim);
}

// As many digits as read back to the same number.
std::string exact(double number) {
  char text[32];
  std::snprintf(text, sizeof text, "%.17g", number);
  return text;
}

std::string list_of(const std::vector<std::string>& texts) {
  std::string out = "[";
  for (const auto& text : texts) out += (out.size() > 1 ? ", " : "") + json_string(text);
  return out + "]";
}

std::string numbers_of(const std::vector<int32_t>& numbers) {
  std::string out = "[";
  for (const auto number : numbers) out += concat(out.size() > 1 ? ", " : "", number);
  return out + "]";
}

// What a node can be split by, with sizes: for whoever edits the file.
std::string factors_of(const Step& step, ir::NodeId node) {
  const ops::Rule& rule = step.frame.rules[node];
  std::string out = "{";
  for (size_t f = 0; f < rule.factors.size(); ++f) {
    if (!rule.splittable(static_cast<int32_t>(f))) continue;
    out += concat(out.size() > 1 ? ", " : "", json_string(factor_label(rule, f)), ": ", rule.factors[f].size);
  }
  return out + "}";
}

[[noreturn]] void fail(const Json& at, const std::string& what) {
  throw Error(Phase::kConfig, concat("plan: ", what))
      .detail(concat("at line ", at.line, ", column ", at.column))
      .hint("docs/plans.md describes the format");
}

const Json& member(const Json& object, const char* name, Json::Kind kind) {
  if (object.kind != Json::Kind::kObject)
    fail(object, concat("needs an object, not ", kind_name(object.kind)));
  const Json* found = object.find(name);
  if (found == nullptr) fail(object, concat("the field `", name, "` is missing"));
  if (found->kind != kind) fail(*found, concat("`", name, "` must not be ", kind_name(found->kind)));
  return *found;
}

int32_t whole_number(const Json& value, const char* name, int32_t least) {
  if (value.kind != Json::Kind::kNumber || value.number != std::floor(value.number) || value.number < least ||
      value.number > 1e9)
    fail(value, concat("`", name, "` must be a whole number from ", least));
  return static_cast<int32_t>(value.number);
}

int32_t number(const Json& object, const char* name, int32_t least) {
  return whole_number(member(object, name, Json::Kind::kNumber), name, least);
}

std::vector<SavedPlan::Entry> entries(const Json& plan, const char* list, const char* what, size_t axes) {
  std::vector<SavedPlan::Entry> out;
  for (const auto& item : member(plan, list, Json::Kind::kArray).items) {
    SavedPlan::Entry entry;
    entry.at = number(item, "at", 0);
    entry.what = member(item, what, Json::Kind::kString).text;
    entry.line = item.line;
    const Json& split = member(item, "split", Json::Kind::kArray);
    for (const auto& text : split.items) {
      if (text.kind != Json::Kind::kString)
        fail(text, concat("`split` must hold names, not ", kind_name(text.kind)));
      entry.axes.push_back(text.text);
    }
    if (entry.axes.size() != axes) fail(split, concat("`split` needs an entry for each of ", axes, " axes"));
    out.push_back(std::move(entry));
  }
  return out;
}

// "name" or "name@leaf".
std::pair<std::string, int32_t> name_and_leaf(const std::string& text) {
  const size_t at = text.rfind('@');
  if (at == std::string::npos) return {text, 0};
  return {text.substr(0, at), std::atoi(text.c_str() + at + 1)};
}

[[noreturn]] void refuse(const SavedPlan::Entry& entry, const std::string& what,
                         const std::string& would_work) {
  throw Error(Phase::kPlan, concat("plan, line ", entry.line, ": ", entry.what, " ", what))
      .hint(concat("would work: ", would_work));
}

AxisChoice read_choice(const SavedPlan::Entry& entry, const std::string& text, const Step& step,
                       ir::NodeId node) {
  if (text == kWhole) return {};
  const auto [name, leaf] = name_and_leaf(text);
  const ops::Rule& rule = step.frame.rules[node];
  if (name == kPartial && leaf < static_cast<int32_t>(rule.linear.size()))
    return {AxisChoice::Kind::kLinear, static_cast<int16_t>(leaf), 0};
  std::string names = kWhole;
  for (size_t f = 0; f < rule.factors.size(); ++f) {
    if (!rule.splittable(static_cast<int32_t>(f))) continue;
    const std::string label = factor_label(rule, f);
    names += ", " + label;
    if (label == name && leaf >= 0 && leaf < static_cast<int32_t>(step.frame.node_factors[node][f].size()))
      return {AxisChoice::Kind::kFactor, static_cast<int16_t>(f), static_cast<int16_t>(leaf)};
  }
  refuse(entry, concat("has no dimension `", text, "` to split"), names);
}

Split read_split(const SavedPlan::Entry& entry, const std::string& text, const Step& step,
                 ir::ValueId value) {
  if (text == kReplicate) return {};
  const auto& dims = step.frame.value_dims[value];
  if (text.rfind(kShard, 0) == 0) {
    const auto [name, leaf] = name_and_leaf(text.substr(std::string(kShard).size()));
    const int dim = std::atoi(name.c_str());
    if (dim >= 0 && dim < static_cast<int>(dims.size()) && leaf >= 0 &&
        leaf < static_cast<int>(dims[dim].size()))
      return {Split::Kind::kShard, static_cast<int16_t>(dim), static_cast<int16_t>(leaf)};
  }
  refuse(entry, concat("has no placement `", text, "`"), concat("replicate, or shard 0 to ", dims.size()));
}

}  // namespace

std::string split_words(const ir::Graph& graph, const Frame& frame, const Assignment& assignment) {
  std::map<std::string, std::set<std::string>> ops;
  for (size_t n = 0; n < graph.nodes().size(); ++n) {
    for (const auto& choice : assignment.nodes[n].choices) {
      if (choice.kind != AxisChoice::Kind::kFactor) continue;
      ops[factor_label(frame.rules[n], static_cast<size_t>(choice.factor))].insert(graph.nodes()[n].op.str());
    }
  }
  std::string text;
  for (const auto& [factor, of] : ops) {
    text += concat(text.empty() ? "" : "; ", factor, " of ");
    for (const auto& op : of) text += (op == *of.begin() ? "" : ", ") + op;
  }
  return text;
}

std::string save_plan(const Step& step, const OuterChoice& outer, const Assignment& assignment) {
  std::string text = "{\n";
  const auto field = [&](const char* name, const std::string& value) {
    text += concat(" ", json_string(name), ": ", value, ",\n");
  };
  field("moai_plan", std::to_string(kVersion));
  field("stages", std::to_string(outer.stages));
  field("chunks", std::to_string(outer.chunks));
  field("order", json_string(order_name(outer.order)));
  field("micro_batches", std::to_string(outer.micro_batches));
  field("recompute", json_string(recompute_name(outer.recompute)));
  if (outer.offload != Offload::kNone) field("offload", json_string(offload_name(outer.offload)));
  if (outer.gradients == Gradients::kAtOnce) field("gradients", json_string(kAtOnce));
  if (outer.capacity > 0) field("capacity", exact(outer.capacity));
  field("mesh", numbers_of(outer.mesh));
  field("splits", numbers_of(std::vector<int32_t>(outer.splits.begin(), outer.splits.end())));
  std::string inputs, nodes;
  for (size_t c = 0; c < step.fold.count.size(); ++c) {
    std::vector<std::string> axes;
    const auto node = step.fold.first_node[c];
    if (node == ir::kNone) {
      const int32_t input = step.fold.first_input[c];
      const auto value = step.graph.inputs()[input];
      for (const auto& split : assignment.inputs[input]) axes.push_back(split_text(step, value, split));
      inputs += concat(inputs.empty() ? "" : ",\n", "  {\"at\": ", input,
                       ", \"type\": ", json_string(step.graph.type(value).str()),
                       ", \"count\": ", step.fold.count[c], ", \"split\": ", list_of(axes), "}");
      continue;
    }
    for (const auto& choice : assignment.nodes[node].choices) axes.push_back(choice_text(step, node, choice));
    nodes +=
        concat(nodes.empty() ? "" : ",\n", "  {\"at\": ", node,
               ", \"op\": ", json_string(step.graph.node(node).op.str()), ", \"count\": ", step.fold.count[c],
               ", \"factors\": ", factors_of(step, node), ", \"split\": ", list_of(axes), "}");
  }
  text += " \"inputs\": [\n" + inputs + "\n ],\n \"nodes\": [\n" + nodes + "\n ]\n}\n";
  return text;
}

SavedPlan load_plan(const std::string& json) {
  const Json plan = parse_json(json);
  if (number(plan, "moai_plan", 1) != kVersion) fail(plan, concat("`moai_plan` must be ", kVersion));
  SavedPlan out;
  out.outer.stages = number(plan, "stages", 1);
  out.outer.chunks = number(plan, "chunks", 1);
  out.outer.micro_batches = number(plan, "micro_batches", 1);
  const Json& order = member(plan, "order", Json::Kind::kString);
  bool is_known = false;
  for (const auto each : {Order::kGPipe, Order::k1F1B, Order::kZeroBubble}) {
    if (order.text != order_name(each)) continue;
    out.outer.order = each;
    is_known = true;
  }
  if (!is_known) fail(order, concat("`", order.text, "` is no order: gpipe, 1f1b or zero_bubble"));
  out.outer.recompute = parse_recompute(member(plan, "recompute", Json::Kind::kString).text);
  if (plan.find("offload") != nullptr)
    out.outer.offload = parse_offload(member(plan, "offload", Json::Kind::kString).text);
  if (plan.find("capacity") != nullptr) {
    const Json& capacity = member(plan, "capacity", Json::Kind::kNumber);
    if (!(capacity.number >= 1 && capacity.number <= kMostCapacity))
      fail(capacity, concat("`capacity` must be from 1 to ", kMostCapacity));
    out.outer.capacity = capacity.number;
  }
  if (const Json* gradients = plan.find("gradients"); gradients != nullptr) {
    if (gradients->text != kAtOnce)
      fail(*gradients, concat("`gradients` can be \"", kAtOnce, "\", or left out"));
    out.outer.gradients = Gradients::kAtOnce;
  }
  for (const auto& size : member(plan, "mesh", Json::Kind::kArray).items)
    out.outer.mesh.push_back(whole_number(size, "mesh", 1));
  for (const auto& splits : member(plan, "splits", Json::Kind::kArray).items) {
    const int32_t bits = whole_number(splits, "splits", 0);
    if (bits > Axis::kAnyRole)
      fail(splits, "`splits` are bits: 1 features, 2 batch, 4 sequence, 8 experts; 255 all");
    out.outer.splits.push_back(static_cast<uint8_t>(bits));
  }
  if (out.outer.splits.size() != out.outer.mesh.size()) fail(plan, "`splits` and `mesh` differ in length");
  out.inputs = entries(plan, "inputs", "type", out.outer.mesh.size());
  out.nodes = entries(plan, "nodes", "op", out.outer.mesh.size());
  return out;
}

void pin_saved(const SavedPlan& plan, const Step& step, Terms* terms) {
  terms->pinned_nodes.assign(step.graph.nodes().size(), {});
  terms->pinned_inputs.assign(step.graph.inputs().size(), {});
  for (const auto& entry : plan.inputs) {
    if (entry.at >= static_cast<int32_t>(step.graph.inputs().size()) ||
        step.graph.type(step.graph.inputs()[entry.at]).str() != entry.what)
      refuse(entry, concat("is not input ", entry.at, " of this step"), "a plan of the same model and batch");
    Placement placement;
    for (const auto& text : entry.axes)
      placement.push_back(read_split(entry, text, step, step.graph.inputs()[entry.at]));
    const auto colour = step.fold.of_input[entry.at];
    for (size_t i = 0; i < step.fold.of_input.size(); ++i) {
      if (step.fold.of_input[i] == colour) terms->pinned_inputs[i] = placement;
    }
  }
  std::vector<const SavedPlan::Entry*> of_colour(step.fold.count.size(), nullptr);
  for (const auto& entry : plan.nodes) {
    if (entry.at >= static_cast<int32_t>(step.graph.nodes().size()) ||
        step.graph.node(entry.at).op.str() != entry.what)
      refuse(entry, concat("is not node ", entry.at, " of this step"), "a plan of the same model and batch");
    of_colour[step.fold.of_node[entry.at]] = &entry;
  }
  for (size_t n = 0; n < step.graph.nodes().size(); ++n) {
    const auto* entry = of_colour[step.fold.of_node[n]];
    if (entry == nullptr) continue;
    for (const auto& text : entry->axes)
      terms->pinned_nodes[n].push_back(read_choice(*entry, text, step, static_cast<ir::NodeId>(n)));
  }
}

}  // namespace moai::plan
