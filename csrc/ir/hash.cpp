#include <cstddef>
#include <unordered_map>
#include <vector>

#include "ir/arg.h"
#include "ir/graph.h"

namespace moai::ir {

namespace {

class Hasher {
 public:
  // Blind to sizes where `is_size` is given.
  Hasher(const Graph& graph, const IsSize* is_size)
      : graph_(graph), is_size_(is_size), values_(graph.values().size()), live_(graph.values().size()) {}

  uint64_t run() {
    uint64_t hash = mix(0, graph_.inputs().size());
    for (size_t i = 0; i < graph_.inputs().size(); ++i) {
      hash = type(hash, graph_.type(graph_.inputs()[i]));
      values_[graph_.inputs()[i]] = mix(1, i);
    }
    hash = mix(hash, graph_.numbers().size());
    for (const NumberKind kind : graph_.numbers()) hash = mix(hash, static_cast<uint64_t>(kind));
    for (const Hint& hint : graph_.hints())
      hash = mix(mix_text(mix(hash, bits(hint.input)), hint.axis.str()), bits(hint.dim));
    hash = mix(hash, nodes());
    hash = mix(hash, graph_.outputs().size());
    for (const ValueId output : graph_.outputs()) hash = mix(hash, values_[output]);
    return hash;
  }

 private:
  // A node's hash names all that it is computed from. The sum counts how often each is computed: a
  // recomputation asked for is not the same as none.
  uint64_t nodes() {
    const std::vector<Node>& nodes = graph_.nodes();
    std::vector<uint64_t> hashes(nodes.size());
    for (size_t id = 0; id < nodes.size(); ++id) {
      hashes[id] = node(nodes[id]);
      for (size_t r = 0; r < nodes[id].results.size(); ++r)
        values_[nodes[id].results[r]] = mix(hashes[id], r);
    }
    uint64_t sum = 0;
    for (const ValueId output : graph_.outputs()) live_[output] = 1;
    for (size_t id = nodes.size(); id-- > 0;) {
      bool live = false;
      for (const ValueId result : nodes[id].results) live = live || live_[result];
      if (!live) continue;
      for (const ValueId operand : nodes[id].operands) live_[operand] = 1;
      sum += hashes[id];
    }
    return sum;
  }

  uint64_t node(const Node& node) {
    uint64_t hash = mix(2, static_cast<uint64_t>(node.kind) << 1 | static_cast<uint64_t>(node.section));
    if (node.kind == NodeKind::kOp) hash = mix(hash, name(node.op));
    hash = mix(hash, node.operands.size());
    for (const ValueId operand : node.operands) hash = mix(hash, values_[operand]);
    hash = mix(hash, node.args.size());
    for (size_t i = 0; i < node.args.size(); ++i) hash = arg(hash, node, i);
    hash = mix(hash, node.results.size());
    for (size_t r = 0; r < node.results.size(); ++r) {
      hash = type(hash, graph_.type(node.results[r]));
      hash = mix(hash, bits(node.tied_operand(r)));
    }
    return hash;
  }

  uint64_t name(Symbol op) {
    const auto [entry, is_new] = names_.try_emplace(op, 0);
    if (is_new) entry->second = mix_text(0, op.str());
    return entry->second;
  }

  uint64_t arg(uint64_t hash, const Node& node, size_t i) const {
    const Arg& arg = node.args[i];
    const auto* list = std::get_if<Dims>(&arg);
    if (!is_size_ || !(list || std::holds_alternative<int64_t>(arg)) || !is_size(node, i))
      return mix_arg(hash, arg);
    return mix(mix(hash, arg.index()), list ? list->size() : 0);
  }

  bool is_size(const Node& node, size_t i) const {
    if (node.kind != NodeKind::kOp) return true;
    return *is_size_ ? (*is_size_)(node, i) : std::holds_alternative<Dims>(node.args[i]);
  }

  uint64_t type(uint64_t hash, const Type& type) const {
    if (!is_size_) return mix_type(hash, type);
    return stride_order(mix(hash, static_cast<uint64_t>(type.dtype)), type.strides);
  }

  // What stays of strides when sizes change: which dim is outside which, and which is repeated.
  static uint64_t stride_order(uint64_t hash, const Dims& strides) {
    hash = mix(hash, strides.size());
    for (size_t i = 0; i < strides.size(); ++i) {
      uint64_t outside = 0;
      for (size_t j = 0; j < strides.size(); ++j) {
        outside += strides[j] > strides[i] || (strides[j] == strides[i] && j < i);
      }
      hash = mix(hash, outside << 1 | bits(strides[i] == 0));
    }
    return hash;
  }

  const Graph& graph_;
  const IsSize* is_size_;
  std::vector<uint64_t> values_;
  std::vector<char> live_;
  std::unordered_map<Symbol, uint64_t> names_;
};

}  // namespace

uint64_t hash(const Graph& graph) { return Hasher(graph, nullptr).run(); }

uint64_t structure_hash(const Graph& graph, const IsSize& is_size) { return Hasher(graph, &is_size).run(); }

}  // namespace moai::ir
