#pragma once

#include <cstdint>
#include <unordered_map>

#include "compile/local/local_builder.h"
#include "ops/rule.h"

namespace moai::compile {

// What the turns of a step make together of values that have no batch in them: sums of gradients, means of
// losses. Each turn's value is added where it lies. A value is whole once its last turn was added, whatever
// the order of the turns.
class TurnSums {
 public:
  // Turns leave `value` behind, which is so reduced over the batch.
  // Throws Error(Phase::kCompile) where parts do not tell what the whole is.
  void carry(const ir::Graph& whole, ir::ValueId value, ops::Combine how, int32_t turns);

  // One turn's. `weight`: the node's next result, or kNone. Returns what all turns make together where this
  // was the last one, else kNone; always kNone for values that are not carried.
  ir::ValueId add(LocalBuilder& builder, ir::ValueId value, ir::ValueId local, ir::ValueId weight);

 private:
  struct Sum {
    ops::Combine how = ops::Combine::kSum;
    int32_t turns = 1;
    int32_t added = 0;
    ir::ValueId local = ir::kNone;
    ir::ValueId weight = ir::kNone;  // of kWeighted
  };
  std::unordered_map<ir::ValueId, Sum> sums_;
};

}  // namespace moai::compile
