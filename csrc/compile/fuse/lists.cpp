#include "compile/fuse/lists.h"

#include <algorithm>
#include <map>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "compile/fuse/list_node.h"
#include "compile/fuse/merge_lists.h"
#include "compile/fuse/part_lists.h"
#include "compile/fuse/regroup.h"
#include "compile/fuse/settle_lists.h"
#include "ir/error.h"

namespace moai::compile {

namespace {

using ir::Graph;
using ir::Node;
using ir::NodeId;
using ir::ValueId;
using Values = ListNode::Values;

// Nodes that are looked at to see whether a chain could take one more; beyond it the answer is no.
constexpr size_t kMostLookedAt = 20000;
constexpr size_t kMostMembers = 64;

const ir::Symbol& lists_symbol() {
  static const ir::Symbol symbol = ir::Symbol::intern("moai.fused_lists");
  return symbol;
}

// A chain of ops on lists, as a graph of one element of each.
class Chain {
 public:
  explicit Chain(const Graph& graph) : graph_(&graph) {}

  const std::vector<NodeId>& members() const { return members_; }

  bool lies_like(const ListNode& node) const {
    if (node.tensors() != like_.size()) return false;
    for (size_t i = 0; i < like_.size(); ++i) {
      const ir::Type& mine = graph_->type(like_[i]);
      const ir::Type& theirs = graph_->type(node.like[i]);
      if (mine.sizes != theirs.sizes || mine.strides != theirs.strides) return false;
    }
    return true;
  }
  // Whether it reads what the chain makes in the chain's order, tensor by tensor.
  bool reads_in_order(const ListNode& node) const {
    return std::all_of(node.lists.begin(), node.lists.end(), [&](const auto& list) {
      return columns_.count(list.second) != 0 ||
             std::none_of(list.second.begin(), list.second.end(),
                          [&](ValueId value) { return made_.count(value) != 0; });
    });
  }
  // Whether it reads a list that the chain reads or makes too.
  bool shares_with(const ListNode& node) const {
    return std::any_of(node.lists.begin(), node.lists.end(), [&](const auto& list) {
      const bool is_of_tensors = list.second.size() == like_.size() &&
                                 graph_->type(list.second[0]).sizes == graph_->type(like_[0]).sizes;
      return is_of_tensors && columns_.count(list.second) != 0;
    });
  }

  void take(NodeId id, const ListNode& listed) {
    if (members_.empty()) like_ = listed.like;
    members_.push_back(id);
    Node node = graph_->node(id);
    node.operands.clear();
    node.tied.clear();
    for (size_t arg = 0; arg < node.args.size(); ++arg) take_argument(&node.args[arg], arg, listed, &node);
    std::vector<ir::Type> types;
    for (size_t r = 0; r < listed.results.size(); ++r) {
      types.push_back(of_one(graph_->type(listed.results[r][0]).dtype, /*differs=*/true));
      const int32_t arg = listed.tied_lists[r];
      if (arg != ir::kNone)
        node.tied.push_back(std::get<ir::OperandListRef>(node.args[static_cast<size_t>(arg)]).operands[0]);
    }
    const std::vector<int32_t> tied = node.tied;
    const std::vector<ValueId> operands = node.operands;
    node.results.clear();
    const NodeId added = inner_.add_node(std::move(node), std::move(types));
    for (size_t r = 0; r < listed.results.size(); ++r) {
      const ValueId result = inner_.node(added).results[r];
      columns_[listed.results[r]] = result;
      results_.emplace_back(result, listed.results[r]);
      made_.insert(listed.results[r].begin(), listed.results[r].end());
      // What the memory of it began as, if that is an input.
      if (!tied.empty()) origin_[result] = origin_.at(operands[tied[r]]);
      else origin_[result] = ir::kNone;
    }
  }

  // Whether one kernel can be it.
  bool is_computed() const { return build_list_kernel(inner_).has_value(); }

  // The node of it; `leaves(value)`: somebody else reads it. Says in `results` which values its results are.
  template <typename Leaves>
  Node node(const Leaves& leaves, Values* results) const {
    Graph inner = inner_;
    std::vector<size_t> leaving;               // of results_
    std::unordered_map<ValueId, size_t> last;  // by origin: the one that is left in its memory
    std::vector<ValueId> outputs;
    for (size_t r = 0; r < results_.size(); ++r) {
      const auto& [result, values] = results_[r];
      if (std::none_of(values.begin(), values.end(), leaves)) continue;
      leaving.push_back(r);
      outputs.push_back(result);
      if (origin_.at(result) != ir::kNone) last[origin_.at(result)] = r;
    }
    inner.set_outputs(std::move(outputs));
    Node node;
    node.op = lists_symbol();
    node.section = graph_->node(members_.front()).section;
    node.origin = graph_->node(members_.back()).origin;
    node.args.emplace_back(ir::print(inner));
    std::vector<std::vector<int32_t>> places;  // by input
    for (const Values& list : inputs_) {
      ir::OperandListRef ref;
      for (const ValueId value : list) {
        ref.operands.push_back(static_cast<int32_t>(node.operands.size()));
        node.operands.push_back(value);
      }
      places.push_back(ref.operands);
      node.args.emplace_back(std::move(ref));
    }
    for (const auto& indices : numbers_) node.args.emplace_back(ir::NumberListRef{indices});
    for (const size_t r : leaving) {
      const auto& [result, values] = results_[r];
      const ValueId origin = origin_.at(result);
      const bool is_tied = origin != ir::kNone && last.at(origin) == r;
      for (size_t i = 0; i < values.size(); ++i) {
        results->push_back(values[i]);
        node.tied.push_back(is_tied ? places[inner_.value(origin).index][i] : ir::kNone);
      }
    }
    return node;
  }

 private:
  static ir::Type of_one(ir::DType dtype, bool differs) {
    return ir::Type::contiguous(dtype, differs ? ir::Dims{2} : ir::Dims{});
  }

  ValueId column(const Values& list) {
    const auto known = columns_.find(list);
    if (known != columns_.end()) return known->second;
    const ir::Type& type = graph_->type(list[0]);
    const bool differs = list.size() == like_.size() && type.sizes == graph_->type(like_[0]).sizes &&
                         type.strides == graph_->type(like_[0]).strides && !is_of_numbers(list);
    const ValueId input = inner_.add_input(of_one(type.dtype, differs));
    columns_[list] = input;
    inputs_.push_back(list);
    origin_[input] = differs ? input : ir::kNone;
    return input;
  }

  // One for each tensor, where tensors have more elements than that.
  bool is_of_numbers(const Values& list) const {
    const auto is_number = [&](ValueId value) { return graph_->type(value).sizes.empty(); };
    return std::all_of(list.begin(), list.end(), is_number) &&
           !std::all_of(like_.begin(), like_.end(), is_number);
  }

  int32_t number(const std::vector<int32_t>& indices) {
    const auto [at, is_new] = number_at_.emplace(indices, static_cast<int32_t>(numbers_.size()));
    if (is_new) {
      numbers_.push_back(indices);
      inner_.add_number(graph_->numbers()[indices[0]]);
    }
    return at->second;
  }

  void take_argument(ir::Arg* arg, size_t position, const ListNode& listed, Node* node) {
    const auto list = listed.lists.find(position);
    if (list != listed.lists.end()) {
      const auto operand = static_cast<int32_t>(node->operands.size());
      node->operands.push_back(column(list->second));
      if (std::holds_alternative<ir::OperandRef>(*arg)) {
        *arg = ir::OperandRef{operand};
      } else {
        *arg = ir::OperandListRef{{operand}};
      }
    } else if (auto* one = std::get_if<ir::NumberRef>(arg)) {
      one->index = number({one->index});
    } else if (auto* numbers = std::get_if<ir::NumberListRef>(arg)) {
      numbers->indices = {number(numbers->indices)};
    } else if (auto* host = std::get_if<ir::HostScalarArg>(arg)) {
      host->number = number({host->number});
    }
  }

  const Graph* graph_;
  std::vector<NodeId> members_;
  Values like_;
  Graph inner_;
  std::map<Values, ValueId> columns_;  // what a list is in the inner graph
  std::vector<Values> inputs_;
  std::vector<std::pair<ValueId, Values>> results_;  // of the inner graph, and whose they are
  std::unordered_map<ValueId, ValueId> origin_;  // of the inner graph: input whose memory it is written to
  std::unordered_set<ValueId> made_;
  std::map<std::vector<int32_t>, int32_t> number_at_;
  std::vector<std::vector<int32_t>> numbers_;
};

class Grouping {
 public:
  explicit Grouping(const Graph& graph) : graph_(graph), readers_(graph) {
    groups_.of.assign(graph.nodes().size(), ir::kNone);
  }

  Graph run() {
    for (size_t n = 0; n < graph_.nodes().size(); ++n) {
      const auto id = static_cast<NodeId>(n);
      if (const auto listed = read_list_node(graph_, graph_.node(id))) place(id, *listed);
    }
    for (auto& members : groups_.members) {
      if (members.size() != 1) continue;
      groups_.of[members.front()] = ir::kNone;
      members.clear();
    }
    return regroup(graph_, groups_, [this](int32_t group, Graph* out, Values* renamed) {
      Values results;
      Node node = chains_[group].node([&](ValueId value) { return readers_.outside(groups_, group, value); },
                                      &results);
      for (ValueId& operand : node.operands) operand = (*renamed)[operand];
      add_renamed(graph_, std::move(node), results, out, renamed);
    });
  }

 private:
  void place(NodeId id, const ListNode& listed) {
    Chain alone(graph_);
    alone.take(id, listed);
    if (!alone.is_computed()) return;
    groups_.of[id] = static_cast<int32_t>(chains_.size());
    groups_.members.push_back({id});
    chains_.push_back(std::move(alone));
    // With it come together the chains that it goes on in.
    for (size_t c = chains_.size() - 1; c-- > 0;) {
      if (!chains_[c].members().empty() && chains_[c].lies_like(listed) && chains_[c].shares_with(listed))
        join(static_cast<int32_t>(c), groups_.of[id]);
    }
  }

  // Makes one chain of two, unless a way leads out of it and back.
  void join(int32_t from, int32_t to) {
    std::vector<NodeId> members = groups_.members[from];
    members.insert(members.end(), groups_.members[to].begin(), groups_.members[to].end());
    if (members.size() > kMostMembers) return;
    std::sort(members.begin(), members.end());
    Chain all(graph_);
    for (const NodeId member : members) {
      const auto listed = read_list_node(graph_, graph_.node(member));
      if (!all.reads_in_order(*listed)) return;
      all.take(member, *listed);
    }
    const std::vector<NodeId> moved = std::exchange(groups_.members[from], {});
    std::swap(groups_.members[to], members);
    for (const NodeId member : moved) groups_.of[member] = to;
    const NodeId least = beginning(to);
    const bool is_closed = std::none_of(
        groups_.members[to].begin(), groups_.members[to].end(),
        [&](NodeId member) { return comes_back(graph_, groups_, to, member, least, kMostLookedAt); });
    if (is_closed) {
      chains_[to] = std::move(all);
      chains_[from] = Chain(graph_);
      return;
    }
    std::swap(groups_.members[to], members);
    groups_.members[from] = moved;
    for (const NodeId member : moved) groups_.of[member] = from;
  }

  // No node before this one follows from the chain, not even by way of other chains.
  NodeId beginning(int32_t c) const {
    NodeId least = groups_.members[c].front();
    for (bool moved = true; moved;) {
      moved = false;
      for (const auto& other : groups_.members) {
        if (other.empty() || other.front() >= least || other.back() < least) continue;
        least = other.front();
        moved = true;
      }
    }
    return least;
  }

  const Graph& graph_;
  NodeGroups groups_;
  const Readers readers_;
  std::vector<Chain> chains_;  // by group
};

}  // namespace

Graph fuse_lists(const Graph& graph) {
  const Graph parted = part_lists(settle_lists(graph));
  return merge_lists(Grouping(parted).run());
}

bool is_fused_lists(const Node& node) { return node.op == lists_symbol(); }

FusedLists fused_lists(const Node& node) {
  FusedLists found;
  found.graph = ir::parse(std::get<std::string>(node.args[0]));
  size_t arg = 1;
  for (size_t i = 0; i < found.graph.inputs().size(); ++i)
    found.inputs.push_back(std::get<ir::OperandListRef>(node.args[arg++]).operands);
  for (size_t n = 0; n < found.graph.numbers().size(); ++n)
    found.numbers.push_back(std::get<ir::NumberListRef>(node.args[arg++]).indices);
  const size_t outputs = found.graph.outputs().size();
  found.tensors = outputs == 0 ? 0 : node.results.size() / outputs;
  for (size_t o = 0; o < outputs; ++o) {
    found.tied.emplace_back();
    for (size_t i = 0; i < found.tensors; ++i)
      found.tied.back().push_back(node.tied_operand(o * found.tensors + i));
  }
  return found;
}

}  // namespace moai::compile
