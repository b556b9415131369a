#pragma once

#include <map>
#include <utility>
#include <vector>

#include "plan/assign.h"

namespace moai::plan {

// How long a part of a step takes on one device.
struct Spent {
  double seconds = 0;
  double compute = 0;       // the computing stream is busy
  double communicate = 0;   // the communicating stream is busy
  double exposed = 0;       // computing waits for a message
  double host = 0;          // the link to the host is busy
  double exposed_host = 0;  // computing waits for it: seconds = compute + exposed + exposed_host
  double ahead = 0;         // of messages put off to the next step's forward, in none of the above

  Spent& operator+=(const Spent& other);
};

// When the parts of an updated weight are gathered: before the step ends, as in our programs, or beside the
// next step's forward, as Megatron-LM and FSDP do.
enum class Gathers : uint8_t { kAtOnce, kAhead };

// Runs nodes in their order on two streams. A device computes on one; on the other, one collective at a time,
// a value is brought to where its next user wants it, once for all that want it there. A collective starts
// when its value is there; that of a weight when the node before the last one that waited for a weight
// starts, so that two gathered weights lie ready at most; those of gradients as soon as a gradient is made,
// in the last turn or, of what is handed on, in each. Copies to and from the host are a third stream, each
// begun at its place in the order and waited for by whoever reads what it brings. Of what could overlap so, a
// device hides its `overlap` (`host_overlap`) alone.
class Timeline {
 public:
  // All must outlive it.
  Timeline(const Step& step, const Frame& turn, const Mesh& mesh, const Assignment& assignment,
           Gathers gathers = Gathers::kAtOnce);

  // The given nodes, once each. `reduces`: they make their gradients whole, as in the last turn.
  Spent run(const std::vector<ir::NodeId>& nodes, bool reduces) const;

  // Adds what was put off, of which the device hides its `overlap` as far as `forward_seconds` are long.
  void settle(double forward_seconds, Spent* spent) const;

  // By node, its compute seconds, or those of its copy.
  double seconds(ir::NodeId node) const { return assignment_.nodes[node].seconds; }

 private:
  struct Move {
    double seconds;
    int32_t to;  // the same number for the same placement of the same value
    ir::ValueId value;
    bool each_turn = false;  // of a gradient: not after the last one alone
    bool of_update = false;  // of an updated weight
  };

  Move move(ir::ValueId value, const Placement& to, double seconds);

  const Step& step_;
  const Mesh& mesh_;
  const Assignment& assignment_;
  Gathers gathers_;
  std::map<std::pair<ir::ValueId, Placement>, int32_t> targets_;
  bool has_copies_;                        // to the host and from it
  std::vector<bool> is_moved_;             // by value: somebody wants it elsewhere
  std::vector<std::vector<Move>> before_;  // by node: what its operands take
  std::vector<std::vector<Move>> after_;   // by node: what its results are wanted as, after backward
};

// What lies on one device, by what it is.
struct Bytes {
  double weights = 0;
  double states = 0;  // of the optimizer
  double data = 0;
  double gradients = 0;    // that wait for the optimizer
  double activations = 0;  // that wait for backward, all turns on their way
  double scratch = 0;      // of the op that runs at the fullest moment, beside its tensors
  double working = 0;      // else, at that moment
  double host = 0;         // and on the host, of the activations that wait there

  double total() const { return weights + states + data + gradients + activations + scratch + working; }
};

// A weight that lies with another stretch than one that reads it (a tied table).
struct Borrowed {
  ir::ValueId weight = ir::kNone;
  int32_t from = 0;  // stretch
  double bytes = 0;
};

// What each stretch of forward costs a device: what stages of a pipeline are cut from.
struct Stretch {
  double forward = 0;  // seconds of a turn
  double backward = 0;
  double weight = 0;  // of it only for weights' gradients
  double update = 0;  // seconds of a step: reducing gradients, and the optimizer
  Bytes bytes;        // activations of one turn
  // Of the seconds above: what the communicating stream is busy, and computing waits for it; of a turn, and
  // of the update.
  double communicate = 0, exposed = 0;
  double update_communicate = 0, update_exposed = 0;
  double host = 0, exposed_host = 0;  // the same of the link to the host, of a turn
  double cut_bytes = 0;               // that a device passes on to the next stretch
  double cut_seconds = 0;             // until what was passed on in parts is whole there
  std::vector<Borrowed> borrowed;     // each weight once
};

// How devices of a stage pass on what they hold alike: each all of it, as our programs do, or each a part,
// gathered on arrival, as Megatron-LM does (Narayanan et al. 2021).
enum class Sends : uint8_t { kWhole, kInParts };

std::vector<Stretch> stretches(const Step& step, const Frame& turn, const Mesh& mesh,
                               const Assignment& assignment, Sends sends = Sends::kWhole,
                               Gathers gathers = Gathers::kAtOnce);

// The whole step on one mesh (no pipeline): all turns and the update.
struct Whole {
  Spent spent;
  Bytes bytes;
};
Whole whole(const Step& step, const Frame& turn, const Mesh& mesh, const Terms& terms,
            const Assignment& assignment, Gathers gathers = Gathers::kAtOnce);

}  // namespace moai::plan
