#include "compile/roots.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <variant>

namespace moai::compile {

namespace {

using ir::Graph;
using ir::Node;
using ir::NodeId;
using ir::NodeKind;
using ir::Type;
using ir::ValueId;

// A part as long as the whole, or of no elements, begins where the whole begins.
Start start_within(const Type& whole, const Type& part, const ir::Arg& offset) {
  if (part.bytes() == whole.bytes() || part.bytes() == 0) return {};
  if (const auto* number = std::get_if<ir::NumberRef>(&offset)) return {0, number->index};
  return {std::get<int64_t>(offset) * ir::element_bytes(part.dtype), ir::kNone};
}

// Where a part begins in the root of its whole; nothing where that takes a sum at run time.
std::optional<Start> sum(const Type& whole, const Start& outer, const Type& part, const Start& inner) {
  if (outer.is_zero()) return inner;
  const int64_t size = ir::element_bytes(part.dtype);
  if (outer.number != ir::kNone) {
    // It counts elements of the whole.
    if (inner.is_zero() && size == ir::element_bytes(whole.dtype)) return outer;
    return std::nullopt;
  }
  if (inner.number != ir::kNone || outer.bytes % size != 0) return std::nullopt;
  return Start{outer.bytes + inner.bytes, ir::kNone};
}

class Search {
 public:
  explicit Search(const Graph& graph) : graph_(graph) {
    found_.root.resize(graph.values().size());
    for (size_t v = 0; v < found_.root.size(); ++v) found_.root[v] = static_cast<ValueId>(v);
    found_.start.resize(graph.values().size());
    found_.last_use.assign(graph.values().size(), ir::kNone);
  }

  Roots run() {
    const auto end = static_cast<NodeId>(graph_.nodes().size());
    for (NodeId id = 0; id < end; ++id) {
      if (graph_.node(id).kind == NodeKind::kUpdate) fold(id);
    }
    for (NodeId id = 0; id < end; ++id) {
      const Node& node = graph_.node(id);
      if (node.kind == NodeKind::kView) {
        view(id, node);
      } else if (node.kind == NodeKind::kUpdate && is_folded(id, node)) {
        use(node.operands[0], graph_.value(node.operands[1]).producer);
      } else {
        for (const ValueId operand : node.operands) use(operand, id);
      }
      for (const ValueId result : node.results) write_through(result);
    }
    for (const ValueId output : graph_.outputs()) use(output, end);
    return std::move(found_);
  }

 private:
  void use(ValueId value, NodeId at) {
    if (value == ir::kNone) return;
    NodeId& last = found_.last_use[found_.root[value]];
    last = std::max(last, at);
  }

  // See Note [Writes through views].
  void fold(NodeId id) {
    const Node& update = graph_.node(id);
    const ir::Value& written = graph_.value(update.operands[1]);
    if (written.producer == ir::kNone) return;
    const Node& op = graph_.node(written.producer);
    const int32_t operand = op.tied_operand(static_cast<size_t>(written.index));
    if (operand == ir::kNone) return;
    const ir::Value& shown = graph_.value(op.operands[operand]);
    if (shown.producer == ir::kNone) return;
    const Node& view = graph_.node(shown.producer);
    if (view.kind != NodeKind::kView || view.operands[0] != update.operands[0]) return;
    const Type& base = graph_.type(update.operands[0]);
    const Type region = region_of(update);
    if (region != shown.type || written.type != shown.type) return;
    if (!(start_within(base, region, update.args[2]) == start_within(base, shown.type, view.args[0]))) return;
    found_.folded.emplace(update.operands[1], id);
  }

  // Of the written value's type: a storage that torch makes is bytes, whatever is put there.
  Type region_of(const Node& update) const {
    return {graph_.type(update.operands[1]).dtype, std::get<ir::Dims>(update.args[0]),
            std::get<ir::Dims>(update.args[1])};
  }

  bool is_folded(NodeId id, const Node& update) const {
    const auto folded = found_.folded.find(update.operands[1]);
    return folded != found_.folded.end() && folded->second == id;
  }

  void view(NodeId id, const Node& node) {
    const ValueId whole = node.operands[0];
    const ValueId part = node.results[0];
    const Type& type = graph_.type(part);
    const Start inner = start_within(graph_.type(whole), type, node.args[0]);
    if (const auto start = sum(graph_.type(whole), found_.start[whole], type, inner)) {
      found_.root[part] = found_.root[whole];
      found_.start[part] = *start;
      return;
    }
    // See Note [Views of views].
    const auto [copy, is_new] =
        found_.copies.emplace(whole, static_cast<Roots::RootId>(found_.last_use.size()));
    if (is_new) {
      found_.last_use.push_back(ir::kNone);
      use(whole, id);
    }
    found_.root[part] = copy->second;
    found_.start[part] = inner;
  }

  void write_through(ValueId written) {
    const auto folded = found_.folded.find(written);
    if (folded == found_.folded.end()) return;
    const Node& update = graph_.node(folded->second);
    const Type& base = graph_.type(update.operands[0]);
    found_.root[written] = update.results[0];
    found_.start[written] = start_within(base, region_of(update), update.args[2]);
  }

  const Graph& graph_;
  Roots found_;
};

}  // namespace

Roots find_roots(const Graph& graph) { return Search(graph).run(); }

}  // namespace moai::compile
