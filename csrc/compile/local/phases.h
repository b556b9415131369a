#pragma once

#include <cstdint>
#include <vector>

#include "compile/local/loop.h"
#include "ir/graph.h"
#include "plan/atoms.h"

namespace moai::compile {

// Note [Phases]
// With turns, a node runs in each (kLoop), once in the first one where it is needed (kOnce), or after the
// last one (kAfter), because it reads what turns add up or because it is the optimizer's.
enum class Phase : uint8_t { kLoop, kOnce, kAfter };

struct Phases {
  std::vector<Phase> of_node;
  std::vector<ir::ValueId> carried;  // what turns leave behind; a value may be there twice
};

// Whether turns have a part of the value each.
bool has_turns(const plan::Frame& turn, ir::ValueId value, const Loop& loop);

// Whether each turn has a value of its own: a part of it, or what it adds to the whole.
bool in_loop(const ir::Graph& graph, const plan::Frame& turn, const Loop& loop, const Phases& phases,
             ir::ValueId value);

// `turn` is the frame of one turn.
Phases find_phases(const ir::Graph& graph, const plan::Frame& turn, const Loop& loop);

}  // namespace moai::compile
