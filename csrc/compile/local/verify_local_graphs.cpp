#include "compile/local/verify_local_graphs.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <tuple>

#include "compile/local/collective.h"
#include "compile/local/message.h"
#include "ir/error.h"

namespace moai::compile {

namespace {

using K = Collective::Kind;

constexpr const char* kReductions[] = {"sum", "product", "max", "min"};

// The same elements in the same memory: the stride of a dim of one element says nothing.
bool lies_alike(const ir::Type& a, const ir::Type& b) {
  if (a.dtype != b.dtype || a.sizes != b.sizes) return false;
  for (size_t d = 0; d < a.sizes.size(); ++d) {
    if (a.sizes[d] > 1 && a.strides[d] != b.strides[d] && a.numel() > 0) return false;
  }
  return true;
}

class Verifier {
 public:
  Verifier(const DeviceGraphs& graphs, const std::vector<int32_t>& mesh)
      : graphs_(graphs),
        mesh_(mesh),
        waits_at_(graphs.size(), 0),
        calls_(graphs.size()),
        messages_(graphs.size()) {}

  void run() {
    std::set<const ir::Graph*> seen;
    for (const auto& graph : graphs_) {
      if (seen.insert(graph.get()).second) ir::verify(*graph);
    }
    const auto devices = static_cast<int32_t>(graphs_.size());
    for (int32_t d = 0; d < devices; ++d) advance(d);
    // A device goes on when its whole group has met; each meeting may let others go on.
    std::vector<int32_t> ready(graphs_.size());
    for (int32_t d = 0; d < devices; ++d) ready[d] = d;
    while (!ready.empty()) {
      const int32_t d = ready.back();
      ready.pop_back();
      if (messages_[d]) {
        if (!goes_on(d)) continue;
        ready.push_back(d);
        ready.push_back(peer_of(mesh_, d, messages_[d]->group));
        ++waits_at_[d];
        advance(d);
        continue;
      }
      if (calls_[d].empty()) continue;
      const auto group = group_of(mesh_, d, axes(d));
      const bool all_here = std::all_of(group.begin(), group.end(), [&](int32_t member) {
        return !calls_[member].empty() && axes(member) == axes(d);
      });
      if (!all_here) continue;
      for (size_t i = 0; i < group.size(); ++i) {
        if (calls_[group[i]].size() != calls_[group[0]].size())
          differ(group[0], group[i], "how many collectives are one");
        for (size_t c = 0; c < calls_[group[i]].size(); ++c) check(group, i, c);
      }
      for (const auto member : group) {
        ++waits_at_[member];
        advance(member);
        ready.push_back(member);
      }
    }
    for (int32_t d = 0; d < devices; ++d) {
      if (!calls_[d].empty()) stuck(d);
      if (messages_[d]) stuck_at_message(d);
    }
    for (const auto& [channel, on_its_way] : channels_) {
      if (on_its_way.sent.size() > on_its_way.received)
        malformed(channel.from, concat("device ", channel.to, " never receives what device ", channel.from,
                                       " sends on channel ", channel.number));
    }
  }

 private:
  const ir::Graph& graph(int32_t device) const { return *graphs_[device]; }
  std::string line(int32_t device) const {
    if (calls_[device].empty() && !messages_[device]) return concat("device ", device, " has ended");
    return concat("device ", device, ", node ", waits_at_[device], ": ",
                  ir::print(graph(device), waits_at_[device]));
  }

  void advance(int32_t device) {
    auto& at = waits_at_[device];
    calls_[device].clear();
    messages_[device].reset();
    for (; at < static_cast<ir::NodeId>(graph(device).nodes().size()); ++at) {
      calls_[device] = read_collectives(graph(device), at);
      if (!calls_[device].empty()) break;
      if (!(messages_[device] = read_message(graph(device), at))) continue;
      const int64_t group = messages_[device]->group;
      if (group < 0 || group >= mesh_[0] || peer_of(mesh_, device, group) == device)
        malformed(device, concat("there is no group ", group, " to speak with"));
      break;
    }
    for (size_t c = 0; c < calls_[device].size(); ++c) check_arguments(device, c);
  }

  const std::vector<int64_t>& axes(int32_t device) const { return calls_[device][0].axes; }

  void check_arguments(int32_t device, size_t c) const {
    const Collective& call = calls_[device][c];
    for (size_t i = 0; i < call.axes.size(); ++i) {
      const auto axis = call.axes[i];
      if (axis < 0 || axis >= static_cast<int64_t>(mesh_.size()))
        malformed(device, concat("there is no mesh axis ", axis));
      if (i > 0 && axis <= call.axes[i - 1]) malformed(device, "a collective's axes do not ascend");
    }
    if (std::find(std::begin(kReductions), std::end(kReductions), call.reduction) == std::end(kReductions))
      malformed(device, concat("there is no reduction \"", call.reduction, "\""));
    if (call.kind == K::kAllReduce) return;
    const auto members = group_of(mesh_, device, call.axes).size();
    const auto rank = static_cast<int64_t>(operand(device, c).sizes.size());
    check_parts(device, rank, call.dim, call.sizes, members);
    if (call.kind != K::kAllToAll) return;
    check_parts(device, rank, call.joined_dim, call.joined_sizes, members);
    if (call.dim == call.joined_dim) malformed(device, "a collective cuts and joins one dim");
  }

  // Values of one channel, in their order.
  struct Channel {
    std::vector<const ir::Type*> sent;
    size_t received = 0;
    size_t ended = 0;  // by who sent them
  };
  struct ChannelId {
    int32_t from, to;
    int64_t number;
    bool operator<(const ChannelId& o) const {
      return std::tie(from, to, number) < std::tie(o.from, o.to, o.number);
    }
  };

  // Whether a device at a message need not wait; then the message is over.
  bool goes_on(int32_t device) {
    const Message& message = *messages_[device];
    const int32_t peer = peer_of(mesh_, device, message.group);
    const ir::Node& node = graph(device).node(waits_at_[device]);
    const bool receives = message.kind == Message::Kind::kReceive;
    Channel& channel = channels_[receives ? ChannelId{peer, device, message.channel}
                                          : ChannelId{device, peer, message.channel}];
    if (message.kind == Message::Kind::kSend) {
      channel.sent.push_back(&operand(device));
      if (!channel.sent.back()->is_dense()) malformed(device, "what is sent is not dense");
      return true;
    }
    if (receives) {
      if (channel.received == channel.sent.size()) return false;
      const ir::Type& type = graph(device).type(node.results[0]);
      if (!lies_alike(type, *channel.sent[channel.received]))
        malformed(device, concat("device ", peer, " sends ", channel.sent[channel.received]->str()));
      ++channel.received;
      return true;
    }
    if (channel.ended == channel.sent.size()) malformed(device, "nothing was sent there that is not ended");
    if (channel.received <= channel.ended) return false;
    if (&operand(device) != channel.sent[channel.ended]) malformed(device, "an older value was sent there");
    ++channel.ended;
    return true;
  }

  [[noreturn]] void stuck_at_message(int32_t device) const {
    throw Error(Phase::kCompile, "a device waits for ever for a message, or for one to be received")
        .detail(line(device))
        .detail(line(peer_of(mesh_, device, messages_[device]->group)));
  }

  void check_parts(int32_t device, int64_t rank, int64_t dim, const std::vector<int64_t>& sizes,
                   size_t members) const {
    if (dim < 0 || dim >= rank) malformed(device, concat("there is no dim ", dim));
    if (sizes.size() != members)
      malformed(device, concat("a collective of ", members, " devices lists ", sizes.size(), " parts"));
  }

  [[noreturn]] void stuck(int32_t device) const {
    for (const auto member : group_of(mesh_, device, axes(device))) {
      const bool has_ended = calls_[member].empty();
      if (!has_ended && axes(member) == axes(device)) continue;
      throw Error(Phase::kCompile, has_ended ? "a device waits for one that has ended"
                                             : "devices wait for each other in another order")
          .detail(line(device))
          .detail(line(member));
    }
    MOAI_ASSERT(false, "device ", device, " waits for nobody");
    std::abort();
  }

  [[noreturn]] void malformed(int32_t device, const std::string& what) const {
    throw Error(Phase::kCompile, what).detail(line(device));
  }

  [[noreturn]] void differ(int32_t a, int32_t b, const char* what) const {
    throw Error(Phase::kCompile, concat("members of a group differ in ", what))
        .detail(line(a))
        .detail(line(b));
  }

  // What member `i` of a group brings to collective `c` of the node, against the first member and its own
  // part's size.
  void check(const std::vector<int32_t>& group, size_t i, size_t c) const {
    const int32_t first = group[0], device = group[i];
    const Collective &a = calls_[first][c], &b = calls_[device][c];
    if (a.kind != b.kind) differ(first, device, "what they do");
    if (a.reduction != b.reduction) differ(first, device, "their reduction");
    if (a.dim != b.dim || a.joined_dim != b.joined_dim) differ(first, device, "the dim");
    if (a.sizes != b.sizes || a.joined_sizes != b.joined_sizes) differ(first, device, "the parts' sizes");
    const auto& type = operand(device, c);
    if (type.dtype != operand(first, c).dtype) differ(first, device, "the dtype");
    ir::Dims expected = operand(first, c).sizes, result = type.sizes;
    if (expected.size() != result.size()) differ(first, device, "the sizes they bring");
    const auto sum = [](const std::vector<int64_t>& sizes) {
      int64_t total = 0;
      for (const auto size : sizes) total += size;
      return total;
    };
    switch (b.kind) {
      case K::kAllReduce: break;
      case K::kAllGather:
        expected[b.dim] = b.sizes[i];
        result[b.dim] = sum(b.sizes);
        break;
      case K::kReduceScatter:
        expected[b.dim] = sum(b.sizes);
        result[b.dim] = b.sizes[i];
        break;
      case K::kAllToAll:
        expected[b.dim] = sum(b.sizes);
        expected[b.joined_dim] = b.joined_sizes[i];
        result[b.dim] = b.sizes[i];
        result[b.joined_dim] = sum(b.joined_sizes);
        break;
    }
    if (type.sizes != expected) {
      if (device != first) differ(first, device, "the sizes they bring");
      malformed(device, concat("a collective's operand should be ",
                               ir::Type::contiguous(type.dtype, expected).str()));
    }
    const auto& made = graph(device).type(graph(device).node(waits_at_[device]).results[c]);
    if (made.sizes != result || made.dtype != type.dtype)
      malformed(device,
                concat("a collective's result should be ", ir::Type::contiguous(type.dtype, result).str()));
  }

  const ir::Type& operand(int32_t device, size_t c = 0) const {
    return graph(device).type(graph(device).node(waits_at_[device]).operands[c]);
  }

  const DeviceGraphs& graphs_;
  const std::vector<int32_t>& mesh_;
  std::vector<ir::NodeId> waits_at_;              // by device: its next collective
  std::vector<std::vector<Collective>> calls_;    // by device: that one, or the bucket; nothing at the end
  std::vector<std::optional<Message>> messages_;  // by device: where it waits at one
  std::map<ChannelId, Channel> channels_;
};

}  // namespace

void verify(const DeviceGraphs& graphs, const std::vector<int32_t>& mesh) {
  int64_t devices = 1;
  for (const auto size : mesh) devices *= size;
  MOAI_ASSERT(devices == static_cast<int64_t>(graphs.size()), graphs.size(), " graphs for ", devices,
              " devices");
  Verifier(graphs, mesh).run();
}

}  // namespace moai::compile
