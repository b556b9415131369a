#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "ir/graph.h"
#include "runtime/communicator.h"

namespace moai::runtime {

// A collective, a bucket of them or a message of a program, made ready: what this device calls, in which
// group, and how much of it.
struct BoundCollective {
  enum class Part : uint8_t {
    kWhole,   // starts, and waits
    kStart,   // a wait follows
    kFinish,  // waits for the oldest in this group that was started so
  };
  Communicator* group = nullptr;
  std::vector<Share> bucket;  // buffers are set by who runs it
  Part part = Part::kWhole;
};

// The groups that one device is in. Used by one thread.
class Groups {
 public:
  // `transport`: null where there is one device; its programs have no collectives.
  Groups(Transport* transport, int device) : transport_(transport), device_(device) {}

  // The collective or message of a node of this device's graph (compile/local/collective.h, message.h), on a
  // mesh of all devices; nothing of a node that is none.
  std::optional<BoundCollective> bind(const ir::Graph& graph, ir::NodeId node,
                                      const std::vector<int32_t>& mesh);
  // Of all devices, apart from the others.
  Communicator& everyone();

  // Runs one, to its end but for a message's first part.
  void run(const BoundCollective& bound);
  // Drops what was started and not finished: its memory may go away now.
  void abandon() { sent_.clear(); }

 private:
  std::optional<BoundCollective> bind_message(const ir::Graph& graph, ir::NodeId node,
                                              const std::vector<int32_t>& mesh);
  Communicator& of(const std::vector<int>& devices, int channel);

  Transport* transport_;
  int device_;
  std::map<std::pair<std::vector<int>, int>, std::unique_ptr<Communicator>> groups_;
  std::unordered_map<Communicator*, std::deque<WorkPtr>> sent_;  // on their way, by channel
};

}  // namespace moai::runtime
