#include "compile/local/buckets.h"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <unordered_map>
#include <utility>

#include "compile/local/collective.h"
#include "ir/rewrite.h"
#include "ir/view_nodes.h"

namespace moai::compile {

namespace {

using ir::Graph;
using ir::NodeId;
using ir::ValueId;

using Axes = std::vector<int64_t>;
using Bucket = std::vector<NodeId>;

bool is_view(const ir::Node& node) {
  return node.kind == ir::NodeKind::kView || ir::step_of(node.op, node.args).has_value();
}

// A collective of a graph.
struct Call {
  NodeId node = ir::kNone;
  int64_t bytes = 0;
  NodeId end = 0;  // the first node that reads its result other than as a view, or the next barrier
};

// By the axes of their groups, in their order.
using Calls = std::map<Axes, std::vector<Call>>;

// By value, the first node that reads it, through views too.
std::vector<NodeId> find_first_reads(const Graph& graph) {
  std::vector<NodeId> first(graph.values().size(), std::numeric_limits<NodeId>::max());
  for (auto n = static_cast<NodeId>(graph.nodes().size()); n-- > 0;) {
    const ir::Node& node = graph.node(n);
    const NodeId read = is_view(node) ? first[node.results[0]] : n;
    for (const ValueId operand : node.operands) {
      if (operand != ir::kNone) first[operand] = std::min(first[operand], read);
    }
  }
  return first;
}

Calls calls_of(const Graph& graph) {
  static const ir::Symbol barrier = ir::Symbol::intern("moai.barrier");
  const auto first = find_first_reads(graph);
  Calls calls;
  auto next_barrier = std::numeric_limits<NodeId>::max();
  for (auto n = static_cast<NodeId>(graph.nodes().size()); n-- > 0;) {
    const ir::Node& node = graph.node(n);
    if (node.op == barrier) next_barrier = n;
    const auto collectives = read_collectives(graph, n);
    if (collectives.empty()) continue;
    const ValueId in = node.operands[0], out = node.results[0];
    calls[collectives[0].axes].push_back(
        {n, graph.type(in).bytes() + graph.type(out).bytes(), std::min(first[out], next_barrier)});
  }
  for (auto& [axes, of_group] : calls) std::reverse(of_group.begin(), of_group.end());
  return calls;
}

// The graphs that have a group of these axes in common, directly or through others: their devices decide
// alike.
std::vector<std::vector<size_t>> joined_by(const std::vector<size_t>& graph_of_device, size_t graphs,
                                           const std::vector<int32_t>& mesh, const Axes& axes) {
  std::vector<size_t> root(graphs);
  std::iota(root.begin(), root.end(), 0);
  const auto find = [&](size_t graph) {
    while (root[graph] != graph) graph = root[graph];
    return graph;
  };
  for (size_t d = 0; d < graph_of_device.size(); ++d) {
    for (const auto member : group_of(mesh, static_cast<int32_t>(d), axes))
      root[find(graph_of_device[member])] = find(graph_of_device[d]);
  }
  std::map<size_t, std::vector<size_t>> sets;
  for (size_t g = 0; g < graphs; ++g) sets[find(g)].push_back(g);
  std::vector<std::vector<size_t>> all;
  for (auto& [first, set] : sets) all.push_back(std::move(set));
  return all;
}

// Which of the collectives that these graphs start together become one, by their position.
std::vector<std::vector<size_t>> find_buckets(const std::vector<const std::vector<Call>*>& calls,
                                              const BucketLimits& limits) {
  std::vector<std::vector<size_t>> buckets(1);
  int64_t together = 0;
  const auto never = std::numeric_limits<NodeId>::max();
  std::vector<NodeId> ends(calls.size(), never);  // by graph, of the bucket that is being filled
  for (size_t c = 0; c < calls[0]->size(); ++c) {
    int64_t bytes = 0;
    for (const auto* of_graph : calls) bytes = std::max(bytes, (*of_graph)[c].bytes);
    if (bytes > limits.each) continue;
    bool goes_on = together + bytes <= limits.together;
    for (size_t g = 0; g < calls.size(); ++g) goes_on = goes_on && (*calls[g])[c].node < ends[g];
    if (!goes_on) {
      buckets.emplace_back();
      together = 0;
      ends.assign(calls.size(), never);
    }
    for (size_t g = 0; g < calls.size(); ++g) ends[g] = std::min(ends[g], (*calls[g])[c].end);
    buckets.back().push_back(c);
    together += bytes;
  }
  buckets.erase(
      std::remove_if(buckets.begin(), buckets.end(), [](const auto& bucket) { return bucket.size() < 2; }),
      buckets.end());
  return buckets;
}

Graph merged(const Graph& graph, const std::vector<Bucket>& buckets) {
  std::unordered_map<NodeId, const Bucket*> bucket_of_node;
  for (const Bucket& bucket : buckets) {
    for (const NodeId node : bucket) bucket_of_node[node] = &bucket;
  }
  ir::Rewrite rewrite(graph);
  // By value that comes later than it stood: with which bucket. And by bucket the views that do.
  std::unordered_map<ValueId, const Bucket*> late;
  std::unordered_map<const Bucket*, std::vector<NodeId>> late_views;
  for (NodeId n = 0; n < static_cast<NodeId>(graph.nodes().size()); ++n) {
    const ir::Node& node = graph.node(n);
    const auto found = bucket_of_node.find(n);
    if (found == bucket_of_node.end()) {
      const auto waits = is_view(node) ? late.find(node.operands[0]) : late.end();
      if (waits == late.end()) {
        rewrite.keep(n);
      } else {
        late_views[waits->second].push_back(n);
        late[node.results[0]] = waits->second;
      }
      continue;
    }
    const Bucket& bucket = *found->second;
    if (n != bucket.back()) {
      late[node.results[0]] = &bucket;
      continue;
    }
    ir::Node one = compile::bucket_of(graph, bucket);
    for (ValueId& operand : one.operands) operand = rewrite[operand];
    std::vector<ir::Type> types;
    for (const NodeId id : bucket) types.push_back(graph.type(graph.node(id).results[0]));
    const auto results = rewrite.add(std::move(one), std::move(types));
    for (size_t r = 0; r < results.size(); ++r) {
      const ValueId value = graph.node(bucket[r]).results[0];
      rewrite.replace(value, results[r]);
      late.erase(value);
    }
    for (const NodeId view : late_views[&bucket]) {
      rewrite.keep(view);
      late.erase(graph.node(view).results[0]);
    }
  }
  return rewrite.finish();
}

}  // namespace

DeviceGraphs merge_into_buckets(const DeviceGraphs& graphs, const std::vector<int32_t>& mesh,
                                const BucketLimits& limits) {
  DeviceGraphs distinct;
  std::vector<size_t> graph_of_device;
  for (const auto& graph : graphs) {
    const auto at = std::find(distinct.begin(), distinct.end(), graph);
    graph_of_device.push_back(static_cast<size_t>(at - distinct.begin()));
    if (at == distinct.end()) distinct.push_back(graph);
  }
  std::vector<Calls> calls;
  std::set<Axes> all_axes;
  for (const auto& graph : distinct) {
    calls.push_back(calls_of(*graph));
    for (const auto& [axes, of_group] : calls.back()) all_axes.insert(axes);
  }
  std::vector<std::vector<Bucket>> buckets(distinct.size());
  for (const Axes& axes : all_axes) {
    for (const auto& set : joined_by(graph_of_device, distinct.size(), mesh, axes)) {
      std::vector<const std::vector<Call>*> of_set;
      for (const size_t g : set) of_set.push_back(&calls[g][axes]);
      const bool agree = std::all_of(of_set.begin(), of_set.end(),
                                     [&](const auto* one) { return one->size() == of_set[0]->size(); });
      if (!agree) continue;  // verify says how they differ
      for (const auto& positions : find_buckets(of_set, limits)) {
        for (size_t i = 0; i < set.size(); ++i) {
          Bucket bucket;
          for (const size_t c : positions) bucket.push_back((*of_set[i])[c].node);
          buckets[set[i]].push_back(std::move(bucket));
        }
      }
    }
  }
  for (size_t g = 0; g < distinct.size(); ++g) {
    if (!buckets[g].empty()) distinct[g] = std::make_shared<const Graph>(merged(*distinct[g], buckets[g]));
  }
  DeviceGraphs out;
  for (const size_t g : graph_of_device) out.push_back(distinct[g]);
  verify(out, mesh);
  return out;
}

}  // namespace moai::compile
