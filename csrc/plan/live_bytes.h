#pragma once

#include <algorithm>
#include <vector>

#include "plan/assign.h"

namespace moai::plan {

// When values take memory, and how much of it one device of a pipeline has.
class Lifetimes {
 public:
  Lifetimes(const Step& step, const Terms& terms) : step_(step), terms_(terms) {}

  bool is_alive(ir::ValueId value, ir::NodeId before) const {
    // Inputs stay, whatever becomes of them.
    if (step_.graph.value(value).producer == ir::kNone) return true;
    return first(value) < before && step_.last_use[value] >= before;
  }

  // The node from which on a base takes memory: its producer, or, of a gradient that several turns add up,
  // the start.
  ir::NodeId first(ir::ValueId value) const {
    const auto producer = step_.graph.value(value).producer;
    if (producer == ir::kNone) return -1;
    return terms_.turns > 1 && step_.is_sum(value) ? -1 : producer;
  }

  // Of what lies still a device has its stage's part; of what backward waits for, for each turn on its way;
  // of what lies on the host nothing.
  double weight(ir::ValueId value) const {
    if (step_.on_host[value]) return 0;
    const auto producer = step_.graph.value(value).producer;
    const double part = 1.0 / terms_.stages;
    if (producer == ir::kNone || step_.is_sum(value) || producer >= step_.roles.backward_end) return part;
    if (producer < step_.roles.forward_end && step_.last_use[value] >= step_.roles.forward_end)
      return part * std::min(terms_.turns, terms_.stages);
    return 1;
  }

 private:
  const Step& step_;
  const Terms& terms_;
};

// By node: bytes on one device while it runs, what it works on and makes included.
std::vector<double> live_bytes(const Step& step, const Frame& turn, const Mesh& mesh, const Terms& terms,
                               const Assignment& assignment);

}  // namespace moai::plan
