#include "compile/fuse/groups.h"

#include <algorithm>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "compile/fuse/kernel.h"
#include "compile/fuse/regroup.h"

namespace moai::compile {

namespace {

using ir::Graph;
using ir::Node;
using ir::NodeId;
using ir::ValueId;

// Nodes that are looked at to see whether a group could take one more; beyond it the answer is no.
constexpr size_t kMostLookedAt = 256;
// How far apart a group's members may be.
constexpr NodeId kWindow = 256;
// Operands and results of a kernel: its arguments are few KiB at most.
constexpr size_t kMostOperands = 24;
constexpr size_t kMostMembers = 64;

const ir::Symbol& fused_symbol() {
  static const ir::Symbol symbol = ir::Symbol::intern("moai.fused");
  return symbol;
}

// What a group's kernel iterates over.
struct Space {
  ir::Dims sizes;
  size_t columns = 0;  // 0: nothing is reduced yet
};

class Grouping {
 public:
  explicit Grouping(const Graph& graph) : graph_(graph), readers_(graph) {
    groups_.of.assign(graph.nodes().size(), ir::kNone);
  }

  Graph run() {
    for (size_t n = 0; n < graph_.nodes().size(); ++n) {
      const auto part = fusable(graph_, static_cast<NodeId>(n));
      if (part) place(static_cast<NodeId>(n), *part);
    }
    for (size_t g = 0; g < groups_.members.size(); ++g) check(static_cast<int32_t>(g));
    return regroup(graph_, groups_, [this](int32_t group, Graph* out, std::vector<ValueId>* renamed) {
      fuse(group, out, renamed);
    });
  }

 private:
  // Into the latest group that can take it, or one of its own.
  void place(NodeId id, const Fusable& part) {
    std::vector<int32_t> near;
    for (const ValueId operand : graph_.node(id).operands) {
      const NodeId producer = graph_.value(operand).producer;
      if (producer != ir::kNone && groups_.of[producer] != ir::kNone) near.push_back(groups_.of[producer]);
    }
    std::sort(near.rbegin(), near.rend());
    near.erase(std::unique(near.begin(), near.end()), near.end());
    for (const int32_t g : near) {
      std::vector<NodeId>& members = groups_.members[g];
      if (members.size() >= kMostMembers || id - members.front() > kWindow) continue;
      if (!admits(spaces_[g], part) || comes_back(graph_, groups_, g, id, beginning(g), kMostLookedAt))
        continue;
      if (part.columns != 0) spaces_[g] = {part.sizes, part.columns};
      members.push_back(id);
      groups_.of[id] = g;
      return;
    }
    groups_.of[id] = static_cast<int32_t>(groups_.members.size());
    groups_.members.push_back({id});
    spaces_.push_back({part.sizes, part.columns});
  }

  static bool is_of_rows(const ir::Dims& sizes, const ir::Dims& space, size_t columns) {
    const ir::Dims rows(space.begin(), space.end() - static_cast<int64_t>(columns));
    ir::Dims kept = rows;
    kept.resize(space.size(), 1);
    return sizes == rows || sizes == kept;
  }

  // Whether the sizes go together. Whether one kernel can be it is seen when the group is whole.
  static bool admits(const Space& space, const Fusable& part) {
    if (part.columns == 0)
      return part.sizes == space.sizes ||
             (space.columns != 0 && is_of_rows(part.sizes, space.sizes, space.columns));
    return part.sizes == space.sizes && (space.columns == 0 || space.columns == part.columns);
  }

  // No node before this one follows from the group: none of the groups that such nodes are in reaches here.
  NodeId beginning(int32_t g) const {
    NodeId least = groups_.members[g].front();
    for (int32_t h = g; h-- > 0;) {
      const auto& members = groups_.members[h];
      if (members.front() < least - kWindow) break;
      if (members.back() >= least) least = members.front();
    }
    return least;
  }

  struct Inner {
    Graph graph;
    std::vector<ValueId> operands;  // by its inputs
    std::vector<ValueId> results;   // by its outputs
    std::vector<int32_t> numbers;   // by its numbers: those of the outer graph
  };

  Inner inner_of(int32_t g) const {
    Inner inner;
    std::unordered_map<ValueId, ValueId> renamed;
    std::unordered_map<int32_t, int32_t> numbers;
    const auto& members = groups_.members[g];
    for (const NodeId id : members) {
      for (const ValueId operand : graph_.node(id).operands) {
        if (renamed.count(operand) != 0) continue;
        const NodeId producer = graph_.value(operand).producer;
        if (producer != ir::kNone && groups_.of[producer] == g) continue;
        renamed[operand] = inner.graph.add_input(graph_.type(operand));
        inner.operands.push_back(operand);
      }
    }
    const auto number = [&](int32_t outer) {
      const auto [at, is_new] = numbers.emplace(outer, 0);
      if (is_new) {
        at->second = inner.graph.add_number(graph_.numbers()[outer]);
        inner.numbers.push_back(outer);
      }
      return at->second;
    };
    std::vector<ValueId> outputs;
    for (const NodeId id : members) {
      Node node = graph_.node(id);
      std::vector<ir::Type> types;
      for (const ValueId result : node.results) types.push_back(graph_.type(result));
      for (ValueId& operand : node.operands) operand = renamed.at(operand);
      for (ir::Arg& arg : node.args) {
        if (auto* ref = std::get_if<ir::NumberRef>(&arg)) ref->index = number(ref->index);
        if (auto* host = std::get_if<ir::HostScalarArg>(&arg)) host->number = number(host->number);
      }
      const std::vector<ValueId> results = std::move(node.results);
      node.results.clear();
      const NodeId added = inner.graph.add_node(std::move(node), std::move(types));
      for (size_t r = 0; r < results.size(); ++r) {
        renamed[results[r]] = inner.graph.node(added).results[r];
        if (!readers_.outside(groups_, g, results[r])) continue;
        outputs.push_back(renamed[results[r]]);
        inner.results.push_back(results[r]);
      }
    }
    inner.graph.set_outputs(std::move(outputs));
    return inner;
  }

  // Takes members off the end until one kernel can compute the rest.
  void check(int32_t g) {
    auto& members = groups_.members[g];
    while (members.size() > 1) {
      const Inner inner = inner_of(g);
      if (inner.operands.size() + inner.results.size() <= kMostOperands && build_kernel(inner.graph)) return;
      groups_.of[members.back()] = ir::kNone;
      members.pop_back();
    }
    groups_.of[members.front()] = ir::kNone;
    members.clear();
  }

  void fuse(int32_t group, Graph* out, std::vector<ValueId>* renamed) const {
    Inner inner = inner_of(group);
    Node node;
    node.op = fused_symbol();
    node.section = graph_.node(groups_.members[group].front()).section;
    node.origin = graph_.node(groups_.members[group].back()).origin;
    ir::OperandListRef operands;
    for (const ValueId operand : inner.operands) {
      operands.operands.push_back(static_cast<int32_t>(node.operands.size()));
      node.operands.push_back((*renamed)[operand]);
    }
    node.args = {ir::print(inner.graph), std::move(operands), ir::NumberListRef{inner.numbers}};
    add_renamed(graph_, std::move(node), inner.results, out, renamed);
  }

  const Graph& graph_;
  const Readers readers_;
  NodeGroups groups_;
  std::vector<Space> spaces_;  // by group
};

}  // namespace

ir::Graph fuse_groups(const ir::Graph& graph) { return Grouping(graph).run(); }

bool is_fused(const ir::Node& node) { return node.op == fused_symbol(); }

ir::Graph fused_graph(const ir::Node& node) { return ir::parse(std::get<std::string>(node.args[0])); }

}  // namespace moai::compile
