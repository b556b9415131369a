#pragma once

#include <cstdint>
#include <vector>

#include "runtime/communicator.h"
#include "runtime/pieces.h"

namespace moai::runtime {

// A collective as an engine does it that knows contiguous memory alone (NCCL): calls that all members make,
// and what a member copies on its own device before and after. Where every part is of one size and lies in
// one piece it is one call on the buffers themselves; uneven parts are grouped sends and receives, or a
// reduction for each member; what lies in rows goes by way of staging memory.

// A place in one of a member's buffers. Elements.
struct Place {
  enum class Of : uint8_t { kIn, kOut, kStaging };
  Of of = Of::kIn;
  int64_t offset = 0;
};

// `box` from one buffer to another; its offsets count from these places.
struct LocalCopy {
  Place from;
  Place to;
  Box box;
};

struct ContiguousCall {
  enum class Kind : uint8_t {
    kAllReduce,
    kAllGather,      // `count` of each member
    kReduceScatter,  // `count` to each member
    kBroadcast,      // from rank `peer`
    kReduce,         // to rank `peer`; `to` is its alone
    kSend,           // to rank `peer`
    kReceive,        // from rank `peer`
  };
  Kind kind = Kind::kAllReduce;
  Place from;
  Place to;
  int64_t count = 0;
  int peer = 0;
};

struct ContiguousCalls {
  std::vector<LocalCopy> before;
  std::vector<ContiguousCall> calls;  // as one group: none waits for another
  std::vector<LocalCopy> after;
  int64_t staging_elements = 0;
};

// What member `rank` does. `verify` has passed the collective.
ContiguousCalls contiguous_calls(const Collective& collective, int rank, int members);

}  // namespace moai::runtime
