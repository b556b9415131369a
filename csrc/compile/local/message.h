#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "compile/local/local_builder.h"
#include "ir/graph.h"

namespace moai::compile {

// Note [Messages in a graph]
// The stages of a pipeline lie side by side, as the outermost axis of the mesh: each device speaks with the
// one at its own place in another stage's group.
//
//   moai.send(x, group, channel)     begins to give x, and goes on
//   moai.sent(x, group, channel)     waits until the oldest value that was sent there, which is x, has
//   arrived moai.receive(group, channel)     waits for the next value from there
//
// What is sent on one channel arrives in that order; channels know nothing of each other. x is dense.
struct Message {
  enum class Kind : uint8_t { kSend, kSent, kReceive };
  Kind kind = Kind::kSend;
  int64_t group = 0;  // at the other end
  int64_t channel = 0;
};

const char* message_name(Message::Kind kind);  // "moai.send"

// Nothing of a node that is no message. Throws Error(Phase::kCompile) where its arguments are malformed.
std::optional<Message> read_message(const ir::Graph& graph, ir::NodeId node);

// The device at the place of `device` in another group of a mesh whose outermost axis is the groups.
int32_t peer_of(const std::vector<int32_t>& mesh, int32_t device, int64_t group);

// Writes the messages of one device's graph.
class Mail {
 public:
  // `tag`: what the sender knows the message by when it asks whether it has arrived.
  void send(LocalBuilder& builder, ir::ValueId x, int64_t group, int64_t channel, int64_t tag = 0);
  ir::ValueId receive(LocalBuilder& builder, ir::Type type, int64_t group, int64_t channel);
  // Ends what was sent and is known to have arrived: the memory is the device's again.
  void finish(LocalBuilder& builder, const std::function<bool(int64_t group, int64_t tag)>& has_arrived);
  // Waits for all that is not ended. Only where no other device waits for this one before it receives.
  void finish(LocalBuilder& builder);

 private:
  struct Sent {
    ir::ValueId x;
    int64_t group, channel, tag;
  };
  std::vector<Sent> sent_;
};

}  // namespace moai::compile
