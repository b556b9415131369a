#include "compile/chunk/chunk_losses.h"

#include <algorithm>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "compile/chunk/chunk_writer.h"
#include "compile/chunk/row_group.h"
#include "compile/chunk/target_weights.h"
#include "compile/fuse/regroup.h"
#include "ir/error.h"
#include "ir/passes.h"
#include "ops/traits.h"

namespace moai::compile {

namespace {

using ir::Graph;
using ir::Node;
using ir::NodeId;
using ir::ValueId;

bool is_large_softmax(const Graph& graph, const Node& node, int64_t most_bytes) {
  return node.op.str() == "aten._log_softmax" && graph.type(node.results[0]).bytes() > most_bytes;
}

// The first loss that is worth it, in chunks; nothing where there is none, and then why.
std::optional<Graph> chunk_one(const Graph& whole, int64_t most_bytes, ChunkReport* report) {
  report->why_not.clear();
  if (!has_large_loss(whole, most_bytes)) return std::nullopt;
  const TargetWeights weights = weigh_targets(whole, most_bytes);
  const Graph& graph = weights.graph;
  const Readers readers(graph);
  for (size_t n = 0; n < graph.nodes().size(); ++n) {
    const Node& node = graph.nodes()[n];
    if (!is_large_softmax(graph, node, most_bytes)) continue;
    const auto group = find_row_group(graph, readers, static_cast<NodeId>(n));
    if (!group) {
      report->why_not.emplace_back("all values of its size are read otherwise too, or are one token's");
      continue;
    }
    NodeGroups groups;
    groups.of.assign(graph.nodes().size(), ir::kNone);
    groups.members.emplace_back();
    for (const RowNode& read : group->nodes) {
      groups.of[read.id] = 0;
      groups.members[0].push_back(read.id);
    }
    const auto needs_group = [&](NodeId id) {
      return comes_back(graph, groups, 0, id, groups.members[0].front(), graph.nodes().size());
    };
    if (std::any_of(groups.members[0].begin(), groups.members[0].end(), needs_group)) {
      report->why_not.emplace_back("its backward needs what is made of its forward by other ops");
      continue;
    }
    report->losses.push_back(node.origin);
    return regroup(graph, groups, [&](int32_t /*group*/, Graph* out, std::vector<ValueId>* renamed) {
      write_chunks(weights, readers, *group, most_bytes, out, renamed);
    });
  }
  return std::nullopt;
}

// Without what nobody reads, as each look for a loss leaves weights of targets. A loss that is not read still
// refuses targets that are no words.
Graph without_unread(const Graph& graph) {
  return ir::eliminate_dead_code_but(
      graph, [](const Node& node) { return node.results.empty() || ops::traits(node.op).can_raise; });
}

}  // namespace

bool has_large_loss(const Graph& graph, int64_t most_bytes) {
  return std::any_of(graph.nodes().begin(), graph.nodes().end(),
                     [&](const Node& node) { return is_large_softmax(graph, node, most_bytes); });
}

Graph chunk_losses(const Graph& graph, int64_t most_bytes, ChunkReport* report) {
  most_bytes = std::max<int64_t>(most_bytes, 1);
  Graph chunked = graph;
  while (auto next = chunk_one(chunked, most_bytes, report)) chunked = std::move(*next);
  return report->losses.empty() ? chunked : without_unread(chunked);
}

DeviceGraphs chunk_losses(const DeviceGraphs& graphs, const std::vector<int32_t>& mesh, int32_t groups,
                          int64_t most_bytes, ChunkReport* report) {
  struct Chunked {
    std::shared_ptr<const Graph> graph;
    ChunkReport report;
  };
  std::unordered_map<const Graph*, Chunked> known;
  DeviceGraphs chunked;
  const size_t per_group = graphs.size() / static_cast<size_t>(groups);
  const auto as_they_are = [&](const std::string& why_not) {
    report->why_not.insert(report->why_not.end(), report->losses.size(), why_not);
    report->losses.clear();
    return graphs;
  };
  for (size_t d = 0; d < graphs.size(); ++d) {
    Chunked& made = known[graphs[d].get()];
    if (made.graph == nullptr)
      made.graph = std::make_shared<const Graph>(chunk_losses(*graphs[d], most_bytes, &made.report));
    const ChunkReport& first = known.at(graphs[d - d % per_group].get()).report;
    if (d % per_group == 0) {
      report->losses.insert(report->losses.end(), first.losses.begin(), first.losses.end());
      report->why_not.insert(report->why_not.end(), first.why_not.begin(), first.why_not.end());
    }
    if (made.report.losses != first.losses) return as_they_are("not all devices have so many tokens");
    chunked.push_back(made.graph);
  }
  if (report->losses.empty()) return graphs;
  try {
    verify(chunked, mesh);
  } catch (const Error& error) {
    return as_they_are(error.what());
  }
  return chunked;
}

}  // namespace moai::compile
