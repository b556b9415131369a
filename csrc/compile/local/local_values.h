#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "compile/local/convert.h"
#include "compile/local/local_builder.h"
#include "compile/local/parts.h"
#include "compile/local/split_step.h"

namespace moai::compile {

// Where a device has the values of the whole graph, while its own is written.
//
// A value may be there under several placements, each a value of the local graph. It is brought to a
// placement once, but for weights: what is gathered of them is gathered again in each turn and in backward,
// so that no device holds all of them at a time.
class LocalValues {
 public:
  static constexpr int32_t kNoTurn = -1;

  // All must outlive it.
  LocalValues(const SplitStep& step, const Place& place, LocalBuilder& builder);

  // What follows is of this turn, and of this part of the step.
  void set_turn(int32_t turn) { turn_ = turn; }
  void set_section(int32_t section) { section_ = section; }
  int32_t turn() const { return turn_; }

  void add(ir::ValueId value, const plan::Placement& placement, ir::ValueId local);
  // The same, outside of turns.
  void add_whole(ir::ValueId value, const plan::Placement& placement, ir::ValueId local);
  bool has(ir::ValueId value) { return !places(value).empty(); }

  // The value as `to` has it: converted from where it lies at the least cost, if it does not lie there yet.
  // Throws Error(Phase::kCompile) where no conversion leads there.
  ir::ValueId bring(ir::ValueId value, const plan::Placement& to);
  // The same, as a kernel of this node takes it.
  ir::ValueId bring_to(const ir::Node& node, ir::ValueId value, const plan::Placement& to);
  // The same, dense, in the order in which the whole lies.
  ir::ValueId bring_dense(ir::ValueId value, const plan::Placement& to);
  // The same, as type_of says.
  ir::ValueId bring_to_send(ir::ValueId value, const plan::Placement& to);

  // Of this device's part of an input, and of what another device sends of a value.
  ir::Type input_type(ir::ValueId input) const;
  ir::Type type_of(ir::ValueId value, const plan::Placement& placement) const;

  // What each turn has of a value, in their order, joined along the dim that turns divide.
  ir::ValueId joined(ir::ValueId value, const plan::Placement& placement,
                     const std::vector<ir::ValueId>& turns);

 private:
  struct There {
    plan::Placement placement;
    ir::ValueId local;
    int32_t scope;  // where it may be used: see scope()
  };
  static constexpr int32_t kForever = -1;

  // The dim that turns divide, and how many elements a turn has in it inside and outside of the turns' atom.
  struct Turned {
    int64_t dim = -1;
    int64_t outer = 1;
    int64_t inner = 1;
  };

  std::vector<There>& places(ir::ValueId value);
  int32_t scope() const;
  std::vector<Reduction> reductions(ir::ValueId value) const;
  ir::ValueId weight_of(ir::ValueId value);
  ir::ValueId dense(ir::ValueId whole, ir::ValueId local);
  Turned turned(ir::ValueId value, const plan::Placement& placement) const;
  ir::ValueId slice_of_turn(ir::ValueId input);

  const SplitStep& step_;
  const ir::Graph& whole_;
  const Place& place_;
  LocalBuilder& b_;
  int32_t turn_ = kNoTurn;
  int32_t section_ = 0;
  std::vector<std::vector<There>> at_;  // by value; as it was produced first
  std::vector<std::unordered_map<ir::ValueId, std::vector<There>>>
      in_turn_;                                         // by turn: what it has a part of
  std::unordered_map<ir::ValueId, ir::ValueId> dense_;  // by local value that is not: its copy that is
};

}  // namespace moai::compile
