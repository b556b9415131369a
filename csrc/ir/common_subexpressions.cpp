#include <cstddef>
#include <unordered_map>
#include <utility>
#include <vector>

#include "ir/arg.h"
#include "ir/passes.h"
#include "ir/rewrite.h"

namespace moai::ir {

namespace {

class Merger {
 public:
  explicit Merger(const Graph& graph)
      : graph_(graph),
        rewrite_(graph),
        is_output_(graph.values().size()),
        becomes_output_(graph.values().size()) {
    seen_.reserve(graph.nodes().size());
    for (const ValueId output : graph.outputs()) is_output_[output] = true;
    for (const ValueId input : graph.inputs()) becomes_output_[rewrite_[input]] = is_output_[input];
  }

  Graph run() {
    for (size_t i = 0; i < graph_.nodes().size(); ++i) {
      const auto id = static_cast<NodeId>(i);
      Node node = rewrite_.renamed(id);
      if (!may_merge(node)) {
        keep(id, std::move(node));
        continue;
      }
      const uint64_t key = hash(node, id);
      const NodeId twin = find(id, node, key);
      if (twin == kNone) {
        seen_.emplace(key, keep(id, std::move(node)));
      } else if (two_outputs(node, rewrite_.to().node(twin))) {
        keep(id, std::move(node));
      } else {
        merge(node, rewrite_.to().node(twin));
      }
    }
    return rewrite_.finish();
  }

 private:
  static bool may_merge(const Node& node) {
    for (size_t r = 0; r < node.results.size(); ++r) {
      if (node.tied_operand(r) != kNone) return false;
    }
    return !node.results.empty();
  }

  NodeId keep(NodeId id, Node node) {
    const NodeId added = rewrite_.keep(id, std::move(node));
    for (const ValueId result : graph_.node(id).results)
      becomes_output_[rewrite_[result]] = is_output_[result];
    return added;
  }

  void merge(const Node& node, const Node& twin) {
    for (size_t r = 0; r < node.results.size(); ++r) {
      rewrite_.replace(node.results[r], twin.results[r]);
      if (is_output_[node.results[r]]) becomes_output_[twin.results[r]] = true;
    }
  }

  NodeId find(NodeId id, const Node& node, uint64_t key) const {
    const auto [begin, end] = seen_.equal_range(key);
    for (auto found = begin; found != end; ++found) {
      if (same(id, node, rewrite_.to().node(found->second))) return found->second;
    }
    return kNone;
  }

  // Each output is a storage of its own. Made one value, they would only have to be copied apart again.
  bool two_outputs(const Node& node, const Node& other) const {
    for (size_t r = 0; r < node.results.size(); ++r) {
      if (is_output_[node.results[r]] && becomes_output_[other.results[r]]) return true;
    }
    return false;
  }

  static uint64_t section(const Node& node) {
    return node.kind == NodeKind::kView ? 0 : static_cast<uint64_t>(node.section);
  }

  uint64_t hash(const Node& node, NodeId id) const {
    uint64_t hash = mix(static_cast<uint64_t>(node.kind) << 1 | section(node), std::hash<Symbol>()(node.op));
    hash = mix_list(hash, node.operands);
    for (const Arg& arg : node.args) hash = mix_arg(hash, arg);
    for (const ValueId result : graph_.node(id).results) hash = mix_type(hash, graph_.type(result));
    return hash;
  }

  bool same(NodeId id, const Node& node, const Node& other) const {
    if (node.kind != other.kind || section(node) != section(other) || node.op != other.op) return false;
    if (node.operands != other.operands || node.args.size() != other.args.size()) return false;
    for (size_t i = 0; i < node.args.size(); ++i) {
      if (!same_arg(node.args[i], other.args[i])) return false;
    }
    const std::vector<ValueId>& results = graph_.node(id).results;
    if (results.size() != other.results.size()) return false;
    for (size_t r = 0; r < results.size(); ++r) {
      if (graph_.type(results[r]) != rewrite_.to().type(other.results[r])) return false;
    }
    return true;
  }

  const Graph& graph_;
  Rewrite rewrite_;
  std::unordered_multimap<uint64_t, NodeId> seen_;  // nodes of the new graph, no two of them the same
  std::vector<bool> is_output_;                     // values of the old graph
  std::vector<bool> becomes_output_;                // values of the new graph, of which there are no more
};

}  // namespace

Graph merge_common_subexpressions(const Graph& graph) { return Merger(graph).run(); }

}  // namespace moai::ir
