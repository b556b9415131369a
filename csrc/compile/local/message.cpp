#include "compile/local/message.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

#include "ir/error.h"

namespace moai::compile {

using K = Message::Kind;

const char* message_name(K kind) {
  switch (kind) {
    case K::kSend: return "moai.send";
    case K::kSent: return "moai.sent";
    case K::kReceive: return "moai.receive";
  }
  return "?";
}

std::optional<Message> read_message(const ir::Graph& graph, ir::NodeId id) {
  const ir::Node& node = graph.node(id);
  for (const K kind : {K::kSend, K::kSent, K::kReceive}) {
    if (node.op.str() != message_name(kind)) continue;
    const size_t operands = kind == K::kReceive ? 0 : 1;
    const bool well_formed = node.operands.size() == operands && node.results.size() == 1 - operands &&
                             node.args.size() == operands + 2;
    const auto* group = well_formed ? std::get_if<int64_t>(&node.args[operands]) : nullptr;
    const auto* channel = well_formed ? std::get_if<int64_t>(&node.args[operands + 1]) : nullptr;
    if (group == nullptr || channel == nullptr)
      throw Error(Phase::kCompile, "malformed message").detail(ir::print(graph, id));
    return Message{kind, *group, *channel};
  }
  return std::nullopt;
}

int32_t peer_of(const std::vector<int32_t>& mesh, int32_t device, int64_t group) {
  const int32_t inner = std::accumulate(mesh.begin() + 1, mesh.end(), 1, std::multiplies<>());
  return static_cast<int32_t>(group) * inner + device % inner;
}

void Mail::send(LocalBuilder& b, ir::ValueId x, int64_t group, int64_t channel, int64_t tag) {
  b.add_without_result(message_name(K::kSend), x, {group, channel});
  sent_.push_back({x, group, channel, tag});
}

ir::ValueId Mail::receive(LocalBuilder& b, ir::Type type, int64_t group, int64_t channel) {
  return b.add(message_name(K::kReceive), {}, {group, channel}, std::move(type));
}

void Mail::finish(LocalBuilder& b, const std::function<bool(int64_t, int64_t)>& has_arrived) {
  const auto ends = [&](const Sent& sent) {
    if (!has_arrived(sent.group, sent.tag)) return false;
    b.add_without_result(message_name(K::kSent), sent.x, {sent.group, sent.channel});
    return true;
  };
  sent_.erase(std::remove_if(sent_.begin(), sent_.end(), ends), sent_.end());
}

void Mail::finish(LocalBuilder& b) {
  finish(b, [](int64_t, int64_t) { return true; });
}

}  // namespace moai::compile
