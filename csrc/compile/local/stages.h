#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "compile/local/loop.h"
#include "compile/local/phases.h"
#include "plan/pipeline/schedule.h"
#include "plan/step.h"

namespace moai::compile {

// A set of groups of devices, by bit.
using GroupSet = uint64_t;

// How a step is shared by the stages of a pipeline. Each stage runs on one group of devices, stage s on group
// s % groups; within its group it is split as everything else. One group without a pipeline.
struct Stages {
  static constexpr int32_t kEverywhere = -1;

  int32_t groups = 1;
  std::vector<int32_t> of_node;                    // its stage; kEverywhere: small, and runs on all groups
  std::vector<plan::TaskKind> kinds;               // by node of the loop: the task that it is part of
  std::vector<GroupSet> of_input;                  // which groups hold it
  std::shared_ptr<const plan::Schedule> schedule;  // of the loop's tasks; null where there is no loop

  GroupSet all() const { return groups == 64 ? ~GroupSet{0} : (GroupSet{1} << groups) - 1; }
  static GroupSet one(int32_t group) { return GroupSet{1} << group; }
  int32_t group_of(int32_t stage) const { return stage % groups; }
  // Where a node runs, or a value is made or held.
  GroupSet groups_of_node(ir::NodeId node) const;
  GroupSet groups_of_value(const ir::Graph& graph, ir::ValueId value) const;

  // No pipeline.
  static Stages none(const ir::Graph& graph, const Loop& loop);
  // As planned. `begins`: by stage, its first stretch of forward. What turns need of others is always made by
  // an earlier task (Note [Messages of a pipeline]); nodes are moved to another stage where that takes it.
  static Stages planned(const plan::Step& step, const Loop& loop, int32_t groups,
                        const std::vector<int32_t>& begins, std::shared_ptr<const plan::Schedule> schedule);
  // `of_node`: its group. No turns: nodes run in their order. `held`: by input, the groups that hold it; none
  // where it lies nowhere yet.
  static Stages in_order(const ir::Graph& graph, int32_t groups, std::vector<int32_t> of_node,
                         std::vector<GroupSet> held);
};

// A value that a stage makes in the loop and a stage on another group needs there.
struct Crossing {
  ir::ValueId value = ir::kNone;
  int32_t from = 0, to = 0;       // stages
  ir::NodeId reader = ir::kNone;  // the first
  bool once = false;              // not in each turn

  // The tasks at whose end it leaves and at whose beginning it arrives.
  plan::TaskKind kind() const { return from < to ? plan::TaskKind::kForward : plan::TaskKind::kBackward; }
};

// Note [Messages of a pipeline]
// A value goes to a group once a turn, for all that read it there. To a later stage it goes at the end of the
// forward task that made it, and is received at the beginning of that stage's forward; to an earlier stage
// the same with backward. So each pair of stages is a channel on which turns come in their order, whatever
// the order of tasks.
//
// In that order. Throws Error(Phase::kCompile) on a value that a stage would need before it is made.
std::vector<Crossing> find_crossings(const ir::Graph& graph, const Stages& stages, const Loop& loop,
                                     const Phases& phases);

// What tasks know of each other by the messages between them (vector clocks: Fidge 1988, Mattern 1989).
class TaskClocks {
 public:
  TaskClocks(const Stages& stages, const std::vector<Crossing>& crossings);

  // Whether a group's `at`-th task, when it has received what it reads, knows that another task is over.
  bool is_over(int32_t group, size_t at, const plan::Task& other) const;

 private:
  using Key = std::tuple<plan::TaskKind, int32_t, int32_t>;  // kind, stage, micro-batch
  struct Position {
    size_t group;
    int32_t index;
  };
  std::vector<std::vector<std::vector<int32_t>>>
      known_;  // by group and task: tasks of each group that are over
  std::map<Key, Position> positions_;
};

}  // namespace moai::compile
