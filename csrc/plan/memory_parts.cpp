#include "plan/memory_parts.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "ir/bytes_text.h"
#include "ir/error.h"
#include "plan/live_bytes.h"

namespace moai::plan {

namespace {

using Kind = MemoryPart::Kind;

Kind kind_of(const Step& step, ir::ValueId value) {
  const auto& v = step.graph.value(value);
  if (v.producer == ir::kNone) {
    switch (step.roles.of_input[v.index]) {
      case InputRole::kWeight: return Kind::kWeights;
      case InputRole::kState: return Kind::kStates;
      case InputRole::kData: return Kind::kData;
    }
  }
  const auto last = step.last_use[value];
  if (v.producer < step.roles.forward_end) {
    const bool waits = last >= step.roles.forward_end && last < step.roles.backward_end;
    return waits ? Kind::kActivations : Kind::kWorking;
  }
  const bool is_sum = v.producer < step.roles.backward_end && last >= step.roles.backward_end;
  return is_sum ? Kind::kGradients : Kind::kWorking;
}

}  // namespace

const char* memory_kind_name(Kind kind) {
  switch (kind) {
    case Kind::kWeights: return "weights";
    case Kind::kStates: return "states";
    case Kind::kData: return "data";
    case Kind::kGradients: return "gradients";
    case Kind::kActivations: return "activations";
    case Kind::kWorking: return "working";
  }
  return "";
}

std::vector<MemoryPart> memory_parts(const Step& step, const Frame& turn, const Mesh& mesh,
                                     const Terms& terms, const Assignment& assignment) {
  const ir::Graph& graph = step.graph;
  const Lifetimes lifetimes(step, terms);
  const ir::NodeId at = assignment.fullest;
  // Where forward and backward end memory is counted between two nodes.
  const bool runs = at != step.roles.forward_end && at != step.roles.backward_end;
  std::map<std::tuple<Kind, std::string, std::string>, MemoryPart> parts;
  const auto add = [&](Kind kind, const std::string& op, const std::string& type, double bytes) {
    MemoryPart& part = parts[{kind, op, type}];
    part.kind = kind;
    part.op = op;
    part.type = type;
    ++part.count;
    part.bytes += bytes;
  };
  for (size_t v = 0; v < graph.values().size(); ++v) {
    const auto value = static_cast<ir::ValueId>(v);
    const auto producer = graph.value(value).producer;
    if (producer != ir::kNone && step.base[v] != value) continue;
    if (!lifetimes.is_alive(value, at) && !(runs && producer == at)) continue;
    add(kind_of(step, value), producer == ir::kNone ? "" : graph.node(producer).op.str(),
        graph.type(value).str(),
        lifetimes.weight(value) * local_bytes(graph.type(value), leaf_sizes(turn, value),
                                              assignment.placement(graph, value), mesh));
  }
  if (assignment.scratch_bytes > 0)
    add(Kind::kWorking, graph.node(at).op.str(), "scratch", assignment.scratch_bytes);
  std::vector<MemoryPart> all;
  for (auto& [key, part] : parts) {
    if (part.bytes > 0) all.push_back(std::move(part));
  }
  std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
  return all;
}

std::string memory_text(const std::vector<MemoryPart>& parts, size_t most) {
  std::string text;
  for (size_t i = 0; i < std::min(most, parts.size()); ++i) {
    const MemoryPart& part = parts[i];
    text += concat(i == 0 ? "" : "; ", memory_kind_name(part.kind), " ",
                   part.count > 1 ? concat(part.count, " x ") : "", part.type, part.op.empty() ? "" : " of ",
                   part.op, ", ", bytes_text(part.bytes));
  }
  return text;
}

}  // namespace moai::plan
