#pragma once

#include <optional>
#include <string>
#include <vector>

#include "compile/local/partition.h"
#include "engine/plan_cache.h"
#include "engine/prediction.h"
#include "engine/settings.h"
#include "engine/trace.h"
#include "plan/planner.h"
#include "runtime/sharding.h"

namespace moai::engine {

// A step, and how several devices share it.
struct Choice {
  ir::Graph graph;    // what the plan is of: the same outputs from the same inputs and numbers
  plan::Frame frame;  // of one turn
  plan::Mesh mesh;
  plan::Assignment assignment;
  compile::Loop loop;
  compile::Stages stages;                       // each on a mesh of its own
  std::string layout;                           // in words
  std::shared_ptr<const Prediction> predicted;  // of a training step that was not split at random
  std::string saved;                            // as a file: see plan/plan_file.h; empty where it cannot be
};

// Decides how steps are shared by several devices.
class Chooser {
 public:
  // Throws Error(Phase::kConfig) on settings that no plan has, naming the word.
  explicit Chooser(const Settings& settings);

  // `graph`: canonical views. `lie`: where each input lies now; null where it is on the host or nowhere.
  // A training step is planned as is best; what trains nothing leaves state where it lies. `share` (0 to 1):
  // how much of the devices' memory it may count on.
  //
  // Throws Error(Phase::kPlan) where a pin is impossible, and OutOfMemory where no plan fits.
  Choice choose(const ir::Graph& graph, const std::vector<runtime::ShardingPtr>& lie, double share = 1);

  // Whether another plan may be chosen when steps turn out otherwise: not where any part of it was asked for.
  bool is_free() const { return is_free_; }
  // From here on computing and messages are taken to be so many times slower.
  void correct(const Correction& correction);

  // How the last training step was laid out, which what trains nothing follows: its stages, and each one's
  // mesh.
  struct Shape {
    int32_t groups = 1;
    std::vector<int32_t> mesh;
  };
  const Shape& shape() const { return shape_; }
  void set_shape(const Shape& shape) { shape_ = shape; }

  // Of experts, in plans that send rows to them; and from here on more of it.
  double capacity() const;
  void widen();

  // What an earlier process chose for the same question, if it was kept and can be followed.
  std::optional<Choice> kept(const ir::Graph& graph, const std::vector<runtime::ShardingPtr>& lie);
  // Keeps what was chosen for later processes.
  void keep(const ir::Graph& graph, const std::vector<runtime::ShardingPtr>& lie, const KeptPlan& plan) const;

 private:
  Choice at_random(const ir::Graph& graph) const;
  plan::StepPlan plan_pinned(const ir::Graph& graph) const;
  Choice planned(const ir::Graph& graph);
  Choice in_place(const ir::Graph& graph, const std::vector<runtime::ShardingPtr>& lie) const;
  Choice in_place(const plan::Step& step, int32_t turns, const std::vector<runtime::ShardingPtr>& lie) const;
  compile::Stages stages_in_place(const ir::Graph& graph, const std::vector<runtime::ShardingPtr>& lie) const;
  void tell_memory(double share);
  std::string question(const ir::Graph& graph, const std::vector<runtime::ShardingPtr>& lie) const;
  Choice followed(const ir::Graph& graph, const std::vector<runtime::ShardingPtr>& lie, const KeptPlan& plan);

  std::vector<int64_t> memory_bytes_;  // by kind of device
  plan::Cluster cluster_;              // meshes point to it: a chooser stays where it is
  plan::Pins pins_;
  bool is_free_;
  bool is_corrected_ = false;
  Shape shape_;
  PlanCache cache_;
  std::string asked_;  // what of each question is the same: the devices, the settings, this library
};

// Whether a step has a backward.
bool trains(const ir::Graph& graph);

// Where a value of a choice lies.
runtime::Sharding sharding_of(const Choice& choice, ir::ValueId value, const plan::Placement& placement);

}  // namespace moai::engine
