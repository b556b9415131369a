#include "runtime/groups.h"

#include <algorithm>
#include <numeric>

#include "compile/local/collective.h"
#include "compile/local/message.h"
#include "ir/error.h"

namespace moai::runtime {

namespace {

constexpr int kPrograms = 0;
constexpr int kBarriers = 1;
constexpr int kMessages = 2;  // and above: by channel

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

// What a member calls that gives a value of type `in` and gets one of type `out`.
Collective call_of(const compile::Collective& c, const ir::Type& in, const ir::Type& out) {
  using K = compile::Collective::Kind;
  const auto dim = static_cast<int>(c.dim);
  switch (c.kind) {
    case K::kAllReduce: return Collective::all_reduce(in.dtype, in.sizes, reduce_of(c.reduction));
    case K::kAllGather: return Collective::all_gather(in.dtype, out.sizes, dim, c.sizes);
    case K::kReduceScatter:
      return Collective::reduce_scatter(in.dtype, in.sizes, dim, c.sizes, reduce_of(c.reduction));
    case K::kAllToAll: break;
  }
  ir::Dims whole = in.sizes;
  whole[c.joined_dim] = sum(c.joined_sizes);
  return Collective::all_to_all(in.dtype, whole, {static_cast<int>(c.joined_dim), c.joined_sizes},
                                {dim, c.sizes});
}

}  // namespace

std::optional<BoundCollective> Groups::bind(const ir::Graph& graph, ir::NodeId id,
                                            const std::vector<int32_t>& mesh) {
  const auto collectives = compile::read_collectives(graph, id);
  if (collectives.empty()) return bind_message(graph, id, mesh);
  const ir::Node& node = graph.node(id);
  BoundCollective bound;
  for (size_t c = 0; c < collectives.size(); ++c)
    bound.bucket.push_back(
        {call_of(collectives[c], graph.type(node.operands[c]), graph.type(node.results[c]))});
  bound.group = &of(compile::group_of(mesh, device_, collectives[0].axes), kPrograms);
  return bound;
}

std::optional<BoundCollective> Groups::bind_message(const ir::Graph& graph, ir::NodeId id,
                                                    const std::vector<int32_t>& mesh) {
  using K = compile::Message::Kind;
  const auto message = compile::read_message(graph, id);
  if (!message) return std::nullopt;
  const ir::Node& node = graph.node(id);
  const ir::Type& type = graph.type(message->kind == K::kReceive ? node.results[0] : node.operands[0]);
  const int peer = compile::peer_of(mesh, device_, message->group);
  const int rank_of_peer = peer < device_ ? 0 : 1;
  BoundCollective bound;
  bound.group =
      &of({std::min(peer, device_), std::max(peer, device_)}, kMessages + static_cast<int>(message->channel));
  bound.bucket.push_back({message->kind == K::kReceive
                              ? Collective::receive(type.dtype, type.sizes, rank_of_peer)
                              : Collective::send(type.dtype, type.sizes, rank_of_peer)});
  if (message->kind == K::kSend) bound.part = BoundCollective::Part::kStart;
  if (message->kind == K::kSent) bound.part = BoundCollective::Part::kFinish;
  return bound;
}

Communicator& Groups::everyone() {
  std::vector<int> all(static_cast<size_t>(transport_->device_count()));
  std::iota(all.begin(), all.end(), 0);
  return of(all, kBarriers);
}

void Groups::run(const BoundCollective& bound) {
  using Part = BoundCollective::Part;
  auto& sent = sent_[bound.group];
  switch (bound.part) {
    case Part::kWhole: bound.group->start(bound.bucket)->wait(); break;
    case Part::kStart: sent.push_back(bound.group->start(bound.bucket)); break;
    case Part::kFinish:
      sent.front()->wait();
      sent.pop_front();
      break;
  }
}

Communicator& Groups::of(const std::vector<int>& devices, int channel) {
  auto& group = groups_[{devices, channel}];
  if (group == nullptr) group = transport_->join(devices, device_, channel);
  return *group;
}

}  // namespace moai::runtime
