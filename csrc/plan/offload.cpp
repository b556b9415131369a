#include "plan/offload.h"

#include <algorithm>
#include <utility>

#include "ir/error.h"
#include "ir/rewrite.h"
#include "ops/host_copies.h"

namespace moai::plan {

namespace {

// Of the bytes that could go, so many stay, in the smallest values: their copies would be all overhead.
constexpr double kSmallShare = 0.01;
// What has come back and was not used yet, at most, in sizes of the largest value that went.
constexpr int64_t kAhead = 2;

// A value that goes to the host.
struct Away {
  ir::ValueId value;
  int64_t bytes;
  ir::NodeId last;    // of forward, that uses it
  ir::NodeId first;   // of backward
  ir::NodeId before;  // it is brought back before this node runs
};

class Chooser {
 public:
  Chooser(const ir::Graph& graph, const Frame& frame, const std::vector<Cut>& cuts)
      : graph_(graph),
        frame_(frame),
        cuts_(cuts),
        roles_(find_roles(graph, frame)),
        base_(find_bases(graph, frame)) {}

  // In the order of their first use in backward.
  std::vector<Away> run() {
    find_uses();
    std::vector<Away> all;
    for (ir::NodeId n = 0; n < roles_.forward_end; ++n) {
      for (const auto result : graph_.node(n).results) {
        if (may_go(n, result))
          all.push_back({result, graph_.type(result).bytes(), std::max(n, last_[base_[result]]),
                         first_[result], ir::kNone});
      }
    }
    drop_small(&all);
    std::stable_sort(all.begin(), all.end(), [](const Away& a, const Away& b) { return a.first < b.first; });
    bring_ahead(&all);
    return all;
  }

 private:
  void find_uses() {
    last_.assign(graph_.values().size(), ir::kNone);
    first_.assign(graph_.values().size(), ir::kNone);
    stays_.assign(graph_.values().size(), false);
    for (ir::NodeId n = 0; n < static_cast<ir::NodeId>(graph_.nodes().size()); ++n) {
      for (const auto operand : graph_.node(n).operands) {
        if (n < roles_.forward_end) {
          last_[base_[operand]] = n;
        } else if (n >= roles_.backward_end) {
          stays_[base_[operand]] = true;
        } else if (first_[operand] == ir::kNone) {
          first_[operand] = n;
        }
      }
    }
    for (const auto output : graph_.outputs()) stays_[base_[output]] = true;
    has_batch_ = std::any_of(graph_.inputs().begin(), graph_.inputs().end(),
                             [&](ir::ValueId input) { return is_of_batch(input); });
  }

  bool is_of_batch(ir::ValueId value) const {
    for (const auto& dim : frame_.value_dims[value]) {
      for (const auto atom : dim) {
        if (roles_.of_atom[atom] == Role::kBatch) return true;
      }
    }
    return false;
  }

  bool may_go(ir::NodeId producer, ir::ValueId value) const {
    if (first_[value] == ir::kNone || stays_[base_[value]] || frame_.rules[producer].free) return false;
    if (!graph_.type(value).is_dense() || (has_batch_ && !is_of_batch(value))) return false;
    return cuts_.empty() || std::max(producer, last_[base_[value]]) < cuts_.back().before;
  }

  static void drop_small(std::vector<Away>* all) {
    std::vector<int64_t> bytes;
    double sum = 0;
    for (const auto& one : *all) {
      bytes.push_back(one.bytes);
      sum += static_cast<double>(one.bytes);
    }
    std::sort(bytes.begin(), bytes.end());
    double small = 0;
    size_t dropped = 0;
    while (dropped < bytes.size() && (small += static_cast<double>(bytes[dropped])) <= kSmallShare * sum)
      ++dropped;
    const int64_t least = dropped < bytes.size() ? bytes[dropped] : 0;
    all->erase(std::remove_if(all->begin(), all->end(), [&](const Away& one) { return one.bytes < least; }),
               all->end());
  }

  void bring_ahead(std::vector<Away>* all) const {
    int64_t largest = 0, ready = 0;
    for (const auto& one : *all) largest = std::max(largest, one.bytes);
    size_t oldest = 0;
    for (auto& one : *all) {
      ready += one.bytes;
      for (; ready > kAhead * largest; ++oldest) ready -= (*all)[oldest].bytes;
      one.before = oldest == 0 ? roles_.forward_end : (*all)[oldest].first;
    }
  }

  const ir::Graph& graph_;
  const Frame& frame_;
  const std::vector<Cut>& cuts_;
  const Roles roles_;
  const std::vector<ir::ValueId> base_;
  std::vector<ir::NodeId> last_;   // by base: forward's last node that uses it
  std::vector<ir::NodeId> first_;  // by value: backward's first node that uses it
  std::vector<bool> stays_;        // by base: an output, or used after backward
  bool has_batch_ = false;
};

// Backward reads views of what came back, and no views that forward made of what has gone.
std::vector<bool> views(const ir::Graph& graph, const Frame& frame) {
  std::vector<bool> all(graph.nodes().size(), false);
  const ir::NodeId end = find_roles(graph, frame).forward_end;
  for (ir::NodeId n = 0; n < end; ++n) {
    const ir::Node& node = graph.node(n);
    all[n] = frame.rules[n].free && node.kind == ir::NodeKind::kOp && !node.operands.empty();
  }
  return all;
}

class Write {
 public:
  Write(const ir::Graph& graph, const std::vector<Away>& all)
      : graph_(graph),
        rewrite_(graph),
        leaves_(graph.nodes().size()),
        comes_(graph.nodes().size()),
        on_host_(graph.values().size(), ir::kNone),
        back_(graph.values().size(), ir::kNone) {
    for (const auto& one : all) {
      leaves_[one.last].push_back(&one);
      comes_[one.before].push_back(&one);
    }
  }

  Offloaded run() {
    for (ir::NodeId n = 0; n < static_cast<ir::NodeId>(graph_.nodes().size()); ++n) {
      for (const Away* one : comes_[n])
        back_[one->value] = copy(ops::from_host(), on_host_[one->value], *one, ir::Section::kBackward);
      ir::Node node = rewrite_.renamed(n);
      for (size_t o = 0; o < node.operands.size(); ++o) {
        const auto operand = graph_.node(n).operands[o];
        if (back_[operand] != ir::kNone) node.operands[o] = back_[operand];
      }
      rewrite_.keep(n, std::move(node));
      original_.push_back(n);
      for (const Away* one : leaves_[n])
        on_host_[one->value] = copy(ops::to_host(), rewrite_[one->value], *one, ir::Section::kForward);
    }
    return {rewrite_.finish(), std::move(original_)};
  }

 private:
  ir::ValueId copy(ir::Symbol op, ir::ValueId of, const Away& one, ir::Section section) {
    ir::Node node;
    node.section = section;
    node.op = op;
    node.operands = {of};
    node.args = {ir::OperandRef{0}};
    node.origin = graph_.node(graph_.value(one.value).producer).origin;
    original_.push_back(one.last);
    return rewrite_.add(std::move(node), graph_.type(one.value));
  }

  const ir::Graph& graph_;
  ir::Rewrite rewrite_;
  std::vector<std::vector<const Away*>> leaves_, comes_;  // by node: after it, before it
  std::vector<ir::ValueId> on_host_, back_;               // by value: of the new graph
  std::vector<ir::NodeId> original_;
};

}  // namespace

const char* offload_name(Offload offload) { return offload == Offload::kNone ? "none" : "activations"; }

Offload parse_offload(std::string_view name) {
  for (const auto offload : kOffloads) {
    if (name == offload_name(offload)) return offload;
  }
  throw Error(Phase::kConfig, concat("`", name, "` is nothing that can lie on the host"))
      .hint("would work: none, activations");
}

Offloaded offload_activations(const ir::Graph& graph, const Frame& frame, const std::vector<Cut>& cuts) {
  const Rematerialised own = repeat(graph, views(graph, frame));
  const std::vector<Away> all = Chooser(own.graph, make_frame(own.graph), cuts).run();
  Offloaded out = Write(own.graph, all).run();
  for (auto& node : out.original) node = own.original[node];
  return out;
}

}  // namespace moai::plan
