#pragma once

#include <vector>

#include "plan/mesh.h"
#include "plan/step.h"

namespace moai::plan {

// What bringing values to those that use them takes. Uses of one kind are priced once, as long as what they
// ask for is the same: with layers alike this is a look-up. All that it is made of must outlive it.
class Moves {
 public:
  Moves(const Step& step, const Frame& turn, const Mesh& mesh)
      : step_(step), turn_(turn), mesh_(mesh), known_(step.uses.size()) {}

  // Seconds for operand number `edge`, counted over all nodes of the graph in their order; `merged` as
  // convert_seconds has it.
  double seconds(size_t edge, const Placement& from, const Placement& to, bool merged) {
    return from == to ? 0 : known(edge, from, to, merged).seconds;
  }
  // Bytes on one device of what is moved, where it is wanted; 0 where nothing is sent for it.
  double bytes(size_t edge, const Placement& from, const Placement& to) {
    return from == to ? 0 : known(edge, from, to, false).bytes;
  }

 private:
  struct Known {
    Placement from, to;
    bool merged = false;
    double seconds = 0;
    double bytes = 0;
  };

  const Known& known(size_t edge, const Placement& from, const Placement& to, bool merged);

  const Step& step_;
  const Frame& turn_;
  const Mesh& mesh_;
  std::vector<Known> known_;  // by use
};

}  // namespace moai::plan
