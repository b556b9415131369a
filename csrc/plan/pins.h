#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "plan/layout.h"
#include "plan/pairs.h"
#include "plan/pipeline/schedule.h"
#include "plan/send_rows.h"
#include "plan/timeline.h"

namespace moai::plan {

struct SavedPlan;  // plan_file.h

// An axis that a plan must have: what it splits in forward and backward, and in how many parts.
struct AxisPin {
  std::string name;  // "copies", "dp", "sp", "ep", "tp"
  int32_t size = 1;
  uint8_t splits = Axis::kAnyRole;
  bool copies = false;  // weights and states lie whole along it, whatever ZeRO does along others
};

// What the caller has settled; the rest is chosen.
struct Pins {
  std::vector<AxisPin> axes;  // outermost first; together with the stages they take all devices
  std::optional<int32_t> stages;
  std::optional<int32_t> chunks;  // virtual stages on each device
  std::optional<int32_t> micro_batches;
  std::optional<int32_t> zero;
  std::optional<Recompute> recompute;
  // Left out where `recompute` is there: none.
  std::optional<Offload> offload;
  std::optional<Order> order;
  std::optional<double> capacity;  // of experts: see Rewriting
  // Where it is left out, of plans that send rows.
  double usual_capacity = kUsualCapacity;
  double solver_steps = Terms{}.steps;  // see Terms: less where a step waits for its plan
  int32_t solver_branches = Terms{}.branches;
  Sends sends = Sends::kWhole;         // between stages
  Gathers gathers = Gathers::kAtOnce;  // of updated weights
  std::optional<uint64_t> random;      // any valid plan, by this seed: one stage, its batch at once
  // Whether devices along an axis of samples may be more than the samples: a script's last batch is smaller.
  bool may_idle = false;
  std::shared_ptr<const SavedPlan> saved;  // all of the above and every placement; what it lacks is chosen
};

// Reads `dp=8,tp=2,pp=1,micro=4,zero=1,recompute=full`: also sp (sequence), ep (expert), copies (data
// parallelism along which ZeRO does not shard, as hybrid sharding has it outside of dp), experts (`sp+tp`:
// along these axes products with experts are split by experts), offload (none, activations), chunks, order
// (gpipe, 1f1b, zero_bubble), sends (whole, parts), gathers (once, ahead), capacity (of experts that rows are
// sent to, 0 where none are), random (a seed: any valid plan). Axes of one part are left out. Throws
// Error(Phase::kConfig) naming the word, also where it is there twice.
Pins parse_pins(const std::string& text);

// A saved plan settles all that pins can: the pins that it amounts to.
Pins settled(Pins pins);

// What pinned axes and stages come to on a cluster. Throws Error(Phase::kConfig) where they do not take all
// of its devices.
Pair pinned_pair(const Pins& pins, const Cluster& cluster);

// What a pipeline alone has is a mistake where pins and cluster leave one stage. Throws Error(Phase::kConfig)
// naming the pin.
void check_pipeline(const Pins& pins, const Cluster& cluster);

// Whether one of so many turns leaves the pinned axes of samples a part for each device. `turns` divides the
// batch.
bool leaves_parts(const Pins& pins, const Step& step, int32_t turns);
// Throws Error(Phase::kPlan) where it does not, naming the pins and the batch.
void check_turns(const Pins& pins, const Step& step, int32_t turns);

// Whether products with experts are split by experts along it.
bool is_for_experts(const AxisPin& pin);

// Whether every axis that is pinned splits something. `uses`: by axis.
bool uses_axes(const Pins& pins, const std::vector<AxisUse>& uses);

// An axis that is pinned and splits nothing is a mistake. `uses`: by axis, of a plan without a limit. Throws
// Error(Phase::kPlan) naming the largest op and the dimension.
void check_axes(const Pins& pins, const Step& step, const std::vector<AxisUse>& uses);

}  // namespace moai::plan
