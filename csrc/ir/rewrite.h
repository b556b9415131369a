#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "ir/graph.h"

namespace moai::ir {

// The offset of a view where the graph alone tells it: a static one, and 0 where the region
// is as long as the value and so can lie nowhere else.
inline std::optional<int64_t> static_offset(const Arg& offset, const Type& region, const Type& whole) {
  if (const auto* fixed = std::get_if<int64_t>(&offset)) return *fixed;
  if (region.dtype == whole.dtype && region.extent() == whole.extent()) return 0;
  return std::nullopt;
}

// Whether an update by `source` puts it over all of what is updated, in the order in which it lies. A region
// as long as the value can only be at offset 0.
inline bool replaces_all(const Graph& graph, const Node& update, ValueId source) {
  const Type& type = graph.type(source);
  return type.is_dense() && type.sizes == std::get<Dims>(update.args[0]) &&
         type.strides == std::get<Dims>(update.args[1]) &&
         type.bytes() == graph.type(update.operands[0]).bytes();
}

// Writes a new graph from an old one, node by node in the old order: the shared half of all passes.
// Inputs and numbers come over at once, at the same positions.
class Rewrite {
 public:
  explicit Rewrite(const Graph& from) : from_(from), to_of_(from.values().size(), kNone) {
    to_.reserve(from.nodes().size(), from.values().size());
    for (const ValueId input : from.inputs()) to_of_[input] = to_.add_input(from.type(input));
    to_.set_numbers(from.numbers());
    to_.set_hints(from.hints());
  }

  const Graph& to() const { return to_; }
  // What an old value is in the new graph; kNone while it is nothing.
  ValueId operator[](ValueId old) const { return to_of_[old]; }
  // Users of an old value get this new one.
  void replace(ValueId old, ValueId by) { to_of_[old] = by; }

  // The node with its operands renamed, its results still the old ones. An offset that can be nothing but
  // 0 becomes static: two views of all of a value are then the same, whatever numbers they came with.
  Node renamed(NodeId old) const {
    Node node = from_.node(old);
    if (node.kind == NodeKind::kView) {
      const Type& whole = from_.type(node.operands[0]);
      if (const auto offset = static_offset(node.args[0], from_.type(node.results[0]), whole))
        node.args[0] = *offset;
    }
    for (ValueId& operand : node.operands) operand = to_of_[operand];
    return node;
  }

  NodeId keep(NodeId old) { return keep(old, renamed(old)); }
  // Adds `node` in the place of `old`, with results of the same types.
  NodeId keep(NodeId old, Node node) {
    const std::vector<ValueId>& results = from_.node(old).results;
    std::vector<Type> types;
    types.reserve(results.size());
    for (const ValueId result : results) types.push_back(from_.type(result));
    return keep(old, std::move(node), std::move(types));
  }
  // The same with results of these types.
  NodeId keep(NodeId old, Node node, std::vector<Type> types) {
    const std::vector<ValueId>& results = from_.node(old).results;
    const NodeId id = to_.add_node(std::move(node), std::move(types));
    for (size_t r = 0; r < results.size(); ++r) to_of_[results[r]] = to_.node(id).results[r];
    return id;
  }

  // A node that the old graph has not.
  ValueId add(Node node, Type result) {
    std::vector<Type> types;
    types.push_back(std::move(result));
    return to_.node(to_.add_node(std::move(node), std::move(types))).results[0];
  }

  std::vector<ValueId> add(Node node, std::vector<Type> results) {
    return to_.node(to_.add_node(std::move(node), std::move(results))).results;
  }

  Graph finish() {
    std::vector<ValueId> outputs;
    outputs.reserve(from_.outputs().size());
    for (const ValueId output : from_.outputs()) outputs.push_back(to_of_[output]);
    to_.set_outputs(std::move(outputs));
    return std::move(to_);
  }

 private:
  const Graph& from_;
  Graph to_;
  std::vector<ValueId> to_of_;
};

}  // namespace moai::ir
