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

struct Group {
  std::vector<NodeId> members;  // in the graph's order
  ir::Dims sizes;               // of the iteration space
  size_t columns = 0;           // 0: nothing is reduced yet
};

class Grouping {
 public:
  explicit Grouping(const Graph& graph) : graph_(graph), group_of_(graph.nodes().size(), ir::kNone) {}

  Graph run() {
    for (size_t n = 0; n < graph_.nodes().size(); ++n) {
      const auto part = fusable(graph_, static_cast<NodeId>(n));
      if (part) place(static_cast<NodeId>(n), *part);
    }
    find_users();
    for (auto& group : groups_) check(group);
    return rewritten();
  }

 private:
  // Into the latest group that can take it, or one of its own.
  void place(NodeId id, const Fusable& part) {
    std::vector<int32_t> near;
    for (const ValueId operand : graph_.node(id).operands) {
      const NodeId producer = graph_.value(operand).producer;
      if (producer != ir::kNone && group_of_[producer] != ir::kNone) near.push_back(group_of_[producer]);
    }
    std::sort(near.rbegin(), near.rend());
    near.erase(std::unique(near.begin(), near.end()), near.end());
    for (const int32_t g : near) {
      Group& group = groups_[g];
      if (group.members.size() >= kMostMembers || id - group.members.front() > kWindow) continue;
      if (!admits(group, part) || comes_back(g, id)) continue;
      if (part.columns != 0) {
        group.columns = part.columns;
        group.sizes = part.sizes;
      }
      group.members.push_back(id);
      group_of_[id] = g;
      return;
    }
    group_of_[id] = static_cast<int32_t>(groups_.size());
    groups_.push_back({{id}, part.sizes, part.columns});
  }

  static bool is_of_rows(const ir::Dims& sizes, const ir::Dims& space, size_t columns) {
    const ir::Dims rows(space.begin(), space.end() - static_cast<int64_t>(columns));
    ir::Dims kept = rows;
    kept.resize(space.size(), 1);
    return sizes == rows || sizes == kept;
  }

  // Whether the sizes go together. Whether one kernel can be it is seen when the group is whole.
  bool admits(const Group& group, const Fusable& part) const {
    if (part.columns == 0)
      return part.sizes == group.sizes ||
             (group.columns != 0 && is_of_rows(part.sizes, group.sizes, group.columns));
    return part.sizes == group.sizes && (group.columns == 0 || group.columns == part.columns);
  }

  // No node before this one follows from the group: none of the groups that such nodes are in reaches here.
  NodeId beginning(int32_t g) const {
    NodeId least = groups_[g].members.front();
    for (int32_t h = g; h-- > 0;) {
      const auto& members = groups_[h].members;
      if (members.front() < least - kWindow) break;
      if (members.back() >= least) least = members.front();
    }
    return least;
  }

  // Whether a way leads from the group out of it and to the node.
  bool comes_back(int32_t g, NodeId id) const {
    std::vector<NodeId> open;
    std::unordered_set<NodeId> seen;
    const auto add = [&](NodeId of, bool skip_group) {
      for (const ValueId operand : graph_.node(of).operands) {
        const NodeId producer = graph_.value(operand).producer;
        if (producer == ir::kNone || (skip_group && group_of_[producer] == g)) continue;
        if (seen.insert(producer).second) open.push_back(producer);
      }
    };
    add(id, true);
    const NodeId least = beginning(g);
    while (!open.empty()) {
      if (seen.size() > kMostLookedAt) return true;
      const NodeId now = open.back();
      open.pop_back();
      if (group_of_[now] == g) return true;
      if (now < least) continue;
      if (group_of_[now] == ir::kNone) {
        add(now, false);
        continue;
      }
      // A group is there when all that it needs is.
      for (const NodeId member : groups_[group_of_[now]].members) add(member, false);
    }
    return false;
  }

  void find_users() {
    users_.resize(graph_.values().size());
    for (size_t n = 0; n < graph_.nodes().size(); ++n) {
      for (const ValueId operand : graph_.nodes()[n].operands)
        users_[operand].push_back(static_cast<NodeId>(n));
    }
    is_output_.assign(graph_.values().size(), false);
    for (const ValueId output : graph_.outputs()) is_output_[output] = true;
  }

  bool leaves(ValueId value, int32_t group) const {
    return is_output_[value] || std::any_of(users_[value].begin(), users_[value].end(),
                                            [&](NodeId user) { return group_of_[user] != group; });
  }

  struct Inner {
    Graph graph;
    std::vector<ValueId> operands;  // by its inputs
    std::vector<ValueId> results;   // by its outputs
    std::vector<int32_t> numbers;   // by its numbers: those of the outer graph
  };

  Inner inner_of(const Group& group) const {
    Inner inner;
    std::unordered_map<ValueId, ValueId> renamed;
    std::unordered_map<int32_t, int32_t> numbers;
    const int32_t g = group_of_[group.members.front()];
    for (const NodeId id : group.members) {
      for (const ValueId operand : graph_.node(id).operands) {
        if (renamed.count(operand) != 0) continue;
        const NodeId producer = graph_.value(operand).producer;
        if (producer != ir::kNone && group_of_[producer] == g) continue;
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
    for (const NodeId id : group.members) {
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
        if (!leaves(results[r], g)) continue;
        outputs.push_back(renamed[results[r]]);
        inner.results.push_back(results[r]);
      }
    }
    inner.graph.set_outputs(std::move(outputs));
    return inner;
  }

  // Takes members off the end until one kernel can compute the rest.
  void check(Group& group) {
    while (group.members.size() > 1) {
      const Inner inner = inner_of(group);
      if (inner.operands.size() + inner.results.size() <= kMostOperands && build_kernel(inner.graph)) return;
      group_of_[group.members.back()] = ir::kNone;
      group.members.pop_back();
    }
    group_of_[group.members.front()] = ir::kNone;
    group.members.clear();
  }

  Graph rewritten() const {
    NodeGroups groups{group_of_, {}};
    for (const Group& group : groups_) groups.members.push_back(group.members);
    return regroup(graph_, groups, [this](int32_t group, Graph* out, std::vector<ValueId>* renamed) {
      fuse(groups_[group], out, renamed);
    });
  }

  void fuse(const Group& group, Graph* out, std::vector<ValueId>* renamed) const {
    Inner inner = inner_of(group);
    Node node;
    node.op = fused_symbol();
    node.section = graph_.node(group.members.front()).section;
    node.origin = graph_.node(group.members.back()).origin;
    ir::OperandListRef operands;
    for (const ValueId operand : inner.operands) {
      operands.operands.push_back(static_cast<int32_t>(node.operands.size()));
      node.operands.push_back((*renamed)[operand]);
    }
    node.args = {ir::print(inner.graph), std::move(operands), ir::NumberListRef{inner.numbers}};
    add_renamed(graph_, std::move(node), inner.results, out, renamed);
  }

  const Graph& graph_;
  std::vector<int32_t> group_of_;  // by node
  std::vector<Group> groups_;
  std::vector<std::vector<NodeId>> users_;  // by value
  std::vector<bool> is_output_;             // by value
};

}  // namespace

ir::Graph fuse_groups(const ir::Graph& graph) { return Grouping(graph).run(); }

bool is_fused(const ir::Node& node) { return node.op == fused_symbol(); }

ir::Graph fused_graph(const ir::Node& node) { return ir::parse(std::get<std::string>(node.args[0])); }

}  // namespace moai::compile
