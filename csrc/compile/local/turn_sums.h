#pragma once

#include <functional>
#include <unordered_map>
#include <vector>

#include "compile/local/local_builder.h"
#include "ops/rule.h"

namespace moai::compile {

// What the turns of a step make together of values that have no batch in them: sums of gradients, means of
// losses. Each turn's value is added where it lies.
class TurnSums {
 public:
  // Turns leave `value` behind, which is so reduced over the batch.
  // Throws Error(Phase::kCompile) where parts do not tell what the whole is.
  void carry(const ir::Graph& whole, ir::ValueId value, ops::Combine how, int32_t turns);

  // One turn's. `weight`: the node's next result, or kNone. Does nothing with values that are not carried.
  void add(LocalBuilder& builder, ir::ValueId value, ir::ValueId local, ir::ValueId weight);

  // After the last turn, for each value in the order in which they came: what all turns make together.
  void finish(LocalBuilder& builder, const std::function<void(ir::ValueId, ir::ValueId)>& take);

 private:
  struct Sum {
    ops::Combine how = ops::Combine::kSum;
    int32_t turns = 1;
    ir::ValueId local = ir::kNone;
    ir::ValueId weight = ir::kNone;  // of kWeighted
  };
  std::unordered_map<ir::ValueId, Sum> sums_;
  std::vector<ir::ValueId> order_;
};

}  // namespace moai::compile
