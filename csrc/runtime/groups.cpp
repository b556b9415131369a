#include "runtime/groups.h"

#include <numeric>

#include "compile/local/collective.h"
#include "ir/error.h"

namespace moai::runtime {

namespace {

constexpr int kPrograms = 0;
constexpr int kBarriers = 1;

Reduce reduce_of(const std::string& name) {
  for (const Reduce reduce : {Reduce::kSum, Reduce::kProduct, Reduce::kMax, Reduce::kMin}) {
    if (name == reduce_name(reduce)) return reduce;
  }
  MOAI_ASSERT(false, "no reduction is called ", name);
  return Reduce::kSum;
}

int64_t sum(const std::vector<int64_t>& sizes) {
  return std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
}

}  // namespace

std::optional<BoundCollective> Groups::bind(const ir::Graph& graph, ir::NodeId id,
                                            const std::vector<int32_t>& mesh) {
  using K = compile::Collective::Kind;
  const auto read = compile::read_collective(graph, id);
  if (!read) return std::nullopt;
  const compile::Collective& c = *read;
  const ir::Node& node = graph.node(id);
  const ir::Type& in = graph.type(node.operands[0]);
  const ir::Type& out = graph.type(node.results[0]);
  ir::Dims whole = in.sizes;
  BoundCollective bound;
  switch (c.kind) {
    case K::kAllReduce: bound.call = Collective::all_reduce(in.dtype, whole, reduce_of(c.reduction)); break;
    case K::kAllGather:
      bound.call = Collective::all_gather(in.dtype, out.sizes, static_cast<int>(c.dim), c.sizes);
      break;
    case K::kReduceScatter:
      bound.call = Collective::reduce_scatter(in.dtype, whole, static_cast<int>(c.dim), c.sizes,
                                              reduce_of(c.reduction));
      break;
    case K::kAllToAll:
      whole[c.joined_dim] = sum(c.joined_sizes);
      bound.call = Collective::all_to_all(in.dtype, whole, {static_cast<int>(c.joined_dim), c.joined_sizes},
                                          {static_cast<int>(c.dim), c.sizes});
      break;
  }
  bound.group = &of(compile::group_of(mesh, device_, c.axes), kPrograms);
  return bound;
}

Communicator& Groups::everyone() {
  std::vector<int> all(static_cast<size_t>(transport_->device_count()));
  std::iota(all.begin(), all.end(), 0);
  return of(all, kBarriers);
}

Communicator& Groups::of(const std::vector<int>& devices, int channel) {
  auto& group = groups_[{devices, channel}];
  if (group == nullptr) group = transport_->join(devices, device_, channel);
  return *group;
}

}  // namespace moai::runtime
