#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "ir/graph.h"
#include "runtime/communicator.h"

namespace moai::runtime {

// A collective of a program, made ready: what this device calls, and in which group.
struct BoundCollective {
  Communicator* group = nullptr;
  Collective call;
};

// The groups that one device is in. Used by one thread.
class Groups {
 public:
  // `transport`: null where there is one device; its programs have no collectives.
  Groups(Transport* transport, int device) : transport_(transport), device_(device) {}

  // The collective of a node of this device's graph (compile/local/collective.h), on a mesh of all devices;
  // nothing of a node that is none.
  std::optional<BoundCollective> bind(const ir::Graph& graph, ir::NodeId node,
                                      const std::vector<int32_t>& mesh);
  // Of all devices, apart from the others.
  Communicator& everyone();

 private:
  Communicator& of(const std::vector<int>& devices, int channel);

  Transport* transport_;
  int device_;
  std::map<std::pair<std::vector<int>, int>, std::unique_ptr<Communicator>> groups_;
};

}  // namespace moai::runtime
