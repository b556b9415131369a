#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <queue>
#include <utility>
#include <vector>

#include "ir/error.h"
#include "plan/pipeline/orders.h"
#include "plan/pipeline/schedule.h"

namespace moai::plan {

namespace {

constexpr double kUnknown = std::numeric_limits<double>::infinity();

// How a device chooses between tasks that it could do.
struct Policy {
  enum class Merge {
    k1F1B,    // forwards and backwards in 1F1B's order
    kAsReady  // whichever is there, a backward if both are
  };
  Merge merge;
  // By how much of its length a weight gradient may delay a forward or backward that is on its way: 0 fills
  // only gaps where it fits, 1 all of them.
  double delay;
};

// One try: an event-driven simulation in which each device, whenever it is free, chooses what to do.
class Greedy {
 public:
  Greedy(const Pipeline& pipeline, const Schedule& base, const std::vector<double>& room_bytes,
         const std::vector<double>& extra_bytes, const Policy& policy)
      : pipeline_(pipeline),
        base_(base),
        policy_(policy),
        forwards_(forward_turns(pipeline)),
        backwards_(backward_turns(pipeline)),
        devices_(pipeline.devices),
        forward_arrives_(pipeline.stages.size() * pipeline.micro_batches, kUnknown),
        backward_arrives_(forward_arrives_.size(), kUnknown) {
    std::fill_n(forward_arrives_.begin(), pipeline.micro_batches, 0.0);
    for (int32_t d = 0; d < pipeline.devices; ++d) {
      devices_[d].room_bytes = room_bytes[d];
      devices_[d].extra_bytes = extra_bytes[d];
    }
    schedule_.devices = pipeline.devices;
    schedule_.chunks = pipeline.chunks;
    schedule_.micro_batches = pipeline.micro_batches;
    schedule_.split = true;
    schedule_.tasks.resize(pipeline.devices);
    for (std::vector<Task>& tasks : schedule_.tasks) tasks.reserve(3 * forwards_.size());
  }

  // False if the merge cannot keep to the limits.
  bool run() {
    for (int32_t d = 0; d < pipeline_.devices; ++d) wakes_.push({0, d});
    while (!wakes_.empty()) {
      const auto [now, d] = wakes_.top();
      wakes_.pop();
      if (now >= devices_[d].free) choose(d, now);
    }
    return std::all_of(devices_.begin(), devices_.end(),
                       [&](const Device& device) { return device.weights == backwards_.size(); });
  }

  Schedule take() { return std::move(schedule_); }

 private:
  struct Device {
    size_t forwards = 0;  // done, in the order of turns; backwards and weights in that of backwards
    size_t backwards = 0;
    size_t weights = 0;
    double free = 0;
    double stream_free = 0;
    double held_bytes = 0;
    double room_bytes = 0;
    double extra_bytes = 0;  // what a backward may add: kept free, so that one always fits in the end
  };

  Task task_of(TaskKind kind, const Turn& turn, int32_t d) const {
    return {kind, turn.chunk * pipeline_.devices + d, turn.micro_batch};
  }
  size_t index(const Task& task) const {
    return static_cast<size_t>(task.stage) * pipeline_.micro_batches + task.micro_batch;
  }

  // When the next forward could start, as far as is known; never if it is not its turn or does not fit.
  double forward_at(int32_t d, const Task& task) const {
    const Device& device = devices_[d];
    const double bytes = pipeline_.stages[task.stage].activation_bytes;
    if (device.held_bytes + bytes + device.extra_bytes > device.room_bytes) return kUnknown;
    return forward_arrives_[index(task)];
  }
  double backward_at(int32_t d, const Task& task) const {
    const Device& device = devices_[d];
    const Pipeline::Stage& stage = pipeline_.stages[task.stage];
    const double more = stage.weight_bytes - stage.activation_bytes;
    if (more > 0 && device.held_bytes + more > device.room_bytes) return kUnknown;
    return backward_arrives_[index(task)];
  }

  void choose(int32_t d, double now) {
    const Device& device = devices_[d];
    const bool in_turn = policy_.merge == Policy::Merge::k1F1B;
    const size_t turn = device.forwards + device.backwards;
    bool may_forward = device.forwards < forwards_.size();
    bool may_backward = device.backwards < backwards_.size();
    if (in_turn && turn < base_.tasks[d].size()) {
      (base_.tasks[d][turn].kind == TaskKind::kForward ? may_backward : may_forward) = false;
    }
    Task forward;
    Task backward;
    double forward_at = kUnknown;
    double backward_at = kUnknown;
    if (may_forward) {
      forward = task_of(TaskKind::kForward, forwards_[device.forwards], d);
      forward_at = this->forward_at(d, forward);
    }
    if (may_backward) {
      backward = task_of(TaskKind::kBackward, backwards_[device.backwards], d);
      backward_at = this->backward_at(d, backward);
    }
    if (backward_at <= now) return start(d, backward, now);
    if (forward_at <= now) return start(d, forward, now);
    if (device.weights == device.backwards) return;
    const Task weight = task_of(TaskKind::kWeight, backwards_[device.weights], d);
    const double seconds = pipeline_.stages[weight.stage].weight_seconds;
    if (now + (1 - policy_.delay) * seconds <= std::min(forward_at, backward_at)) start(d, weight, now);
  }

  void start(int32_t d, const Task& task, double now) {
    Device& device = devices_[d];
    const Pipeline::Stage& stage = pipeline_.stages[task.stage];
    const int32_t last = static_cast<int32_t>(pipeline_.stages.size()) - 1;
    schedule_.tasks[d].push_back(task);
    switch (task.kind) {
      case TaskKind::kForward:
        ++device.forwards;
        device.held_bytes += stage.activation_bytes;
        device.free = now + stage.forward_seconds;
        if (task.stage < last) {
          forward_arrives_[index(task) + pipeline_.micro_batches] =
              send(d, task.stage + 1, stage.to_next, now);
        } else {
          backward_arrives_[index(task)] = device.free;
        }
        break;
      case TaskKind::kBackward:
        ++device.backwards;
        device.held_bytes += stage.weight_bytes - stage.activation_bytes;
        device.free = now + stage.backward_seconds;
        if (task.stage > 0) {
          backward_arrives_[index(task) - pipeline_.micro_batches] =
              send(d, task.stage - 1, stage.to_previous, now);
        }
        break;
      case TaskKind::kWeight:
        ++device.weights;
        device.held_bytes -= stage.weight_bytes;
        device.free = now + stage.weight_seconds;
        break;
    }
    wakes_.push({device.free, d});
  }

  // When a message to a stage, ready when the device is free, arrives; wakes the stage's device then.
  double send(int32_t d, int32_t stage, const Transfer& transfer, double now) {
    Device& device = devices_[d];
    double arrives = device.free;
    if (pipeline_.devices > 1) {
      device.stream_free = std::max(device.stream_free, device.free) + transfer.seconds;
      arrives = device.stream_free + transfer.latency_seconds;
    }
    const int32_t receiver = pipeline_.device_of(stage);
    const double free = devices_[receiver].free;
    if (free <= now || free < arrives) wakes_.push({arrives, receiver});  // else it wakes later, and finds it
    return arrives;
  }

  using Wake = std::pair<double, int32_t>;

  const Pipeline& pipeline_;
  const Schedule& base_;
  Policy policy_;
  std::vector<Turn> forwards_;
  std::vector<Turn> backwards_;
  std::vector<Device> devices_;
  std::vector<double> forward_arrives_;  // by stage, micro-batch: the activations that its forward needs
  std::vector<double> backward_arrives_;
  std::priority_queue<Wake, std::vector<Wake>, std::greater<>> wakes_;
  Schedule schedule_;
};

// Relative: how much faster is faster, and by how much sums of bytes that were rounded may pass a limit.
constexpr double kTolerance = 1e-9;

std::vector<double> resident_bytes(const Pipeline& pipeline) {
  std::vector<double> bytes(pipeline.devices, 0);
  for (size_t s = 0; s < pipeline.stages.size(); ++s) {
    bytes[pipeline.device_of(static_cast<int32_t>(s))] += pipeline.stages[s].resident_bytes;
  }
  return bytes;
}

// By device, by how much a backward may leave more held than before.
std::vector<double> extra_bytes(const Pipeline& pipeline) {
  std::vector<double> bytes(pipeline.devices, 0);
  for (size_t s = 0; s < pipeline.stages.size(); ++s) {
    double& most = bytes[pipeline.device_of(static_cast<int32_t>(s))];
    most = std::max(most, pipeline.stages[s].weight_bytes - pipeline.stages[s].activation_bytes);
  }
  return bytes;
}

// Note [What always fits]
// ~~~~~~~~~~~~~~~~~~~~~~~
// A device that does each forward no sooner than its own backwards, in their sequence, ask for, and each
// weight gradient right after its backward, holds at most the bytes below. With that much on each device the
// greedy merges end. Let it be otherwise, and take the first backward in the sequence that some device never
// does, of the last stage that never does it: the gradient that it needs is there, since that came from a
// later stage and no later turn. So a forward that it needs, here or on a device before, is never done; take
// the earliest. Its activations are there; so it does not fit, though all weight gradients are done (a device
// that can do nothing else does them). But this device has done all backwards before that one, and the lazy
// order above holds no less than it would with this forward. A backward always fits once weight gradients are
// done, for a forward leaves room for what one may add.
std::vector<double> least_bytes(const Pipeline& pipeline) {
  const std::vector<Turn> forwards = forward_turns(pipeline);
  const std::vector<Turn> backwards = backward_turns(pipeline);
  const size_t m = pipeline.micro_batches;
  std::vector<size_t> turn_of(forwards.size());
  for (size_t i = 0; i < forwards.size(); ++i) {
    turn_of[forwards[i].chunk * m + forwards[i].micro_batch] = i;
  }
  std::vector<double> least = resident_bytes(pipeline);
  const std::vector<double> extra = extra_bytes(pipeline);
  for (int32_t d = 0; d < pipeline.devices; ++d) {
    const auto bytes = [&](const Turn& turn) {
      return pipeline.stages[turn.chunk * pipeline.devices + d].activation_bytes;
    };
    double held = 0;
    double most = 0;
    size_t done = 0;
    for (const Turn& turn : backwards) {
      const size_t needed = turn_of[turn.chunk * m + turn.micro_batch] + 1;
      for (; done < needed; ++done) held += bytes(forwards[done]);
      most = std::max(most, held);
      held -= bytes(turn);
    }
    least[d] += most + extra[d];
  }
  return least;
}

double most_bytes(const Simulation& simulation) {
  double most = 0;
  for (const Simulation::Device& device : simulation.devices) most = std::max(most, device.peak_bytes);
  return most;
}

// The best of the schedules that were offered.
class Best {
 public:
  Best(const Pipeline& pipeline, const std::vector<double>& limits)
      : pipeline_(pipeline), limits_(limits), least_(least_seconds(pipeline, Order::kZeroBubble)) {}

  void offer(Schedule schedule) {
    const Simulation simulation = simulate(schedule, pipeline_);
    for (size_t d = 0; d < limits_.size(); ++d) {
      if (simulation.devices[d].peak_bytes > limits_[d] * (1 + 2 * kTolerance)) return;
    }
    const double bytes = most_bytes(simulation);
    const double faster = seconds_ - simulation.seconds;
    const double same = kTolerance * simulation.seconds;
    if (faster < -same || (faster <= same && bytes >= bytes_)) return;
    schedule_ = std::move(schedule);
    seconds_ = simulation.seconds;
    bytes_ = bytes;
  }

  bool cannot_improve() const { return seconds_ <= least_ * (1 + kTolerance); }
  Schedule take() {
    MOAI_ASSERT(!schedule_.tasks.empty(), "zero-bubble: no schedule keeps to the limits");
    return std::move(schedule_);
  }

 private:
  const Pipeline& pipeline_;
  std::vector<double> limits_;
  double least_;
  Schedule schedule_;
  double seconds_ = kUnknown;
  double bytes_ = kUnknown;
};

void check_limits(const std::vector<double>& limits, const std::vector<double>& needed,
                  const std::vector<double>& resident) {
  if (limits.size() != needed.size()) {
    throw Error(Phase::kPlan,
                concat("zero-bubble: limits of ", limits.size(), " devices for ", needed.size()));
  }
  for (size_t d = 0; d < limits.size(); ++d) {
    if (needed[d] <= limits[d]) continue;
    throw Error(Phase::kPlan, concat("zero-bubble: device ", d, " may hold ", limits[d], " bytes"))
        .hint(concat("would fit: ", needed[d], " bytes, of which ", resident[d], " stay"));
  }
}

// Offers what each policy makes of these limits.
void try_merges(const Pipeline& pipeline, const Schedule& base, const std::vector<double>& limits,
                Best* best) {
  std::vector<double> room = resident_bytes(pipeline);
  for (size_t d = 0; d < room.size(); ++d) room[d] = limits[d] * (1 + kTolerance) - room[d];
  const std::vector<double> extra = extra_bytes(pipeline);
  for (const Policy::Merge merge : {Policy::Merge::k1F1B, Policy::Merge::kAsReady}) {
    for (const double delay : {0.0, 0.5, 1.0}) {
      if (best->cannot_improve()) return;
      Greedy greedy(pipeline, base, room, extra, {merge, delay});
      const bool done = greedy.run();
      MOAI_ASSERT(done || merge == Policy::Merge::k1F1B, "zero-bubble: devices wait forever");
      if (done) best->offer(greedy.take());
    }
  }
}

}  // namespace

Schedule zero_bubble(const Pipeline& pipeline, const std::vector<double>& limit_bytes) {
  const Schedule base = one_forward_one_backward(pipeline);
  const std::vector<double> needed = least_bytes(pipeline);
  const std::vector<double> resident = resident_bytes(pipeline);
  if (!limit_bytes.empty()) check_limits(limit_bytes, needed, resident);
  Schedule in_place = split_weights(base);
  const double frugal =
      std::max(most_bytes(simulate(in_place, pipeline)), *std::max_element(needed.begin(), needed.end()));
  std::vector<double> limits(pipeline.devices, frugal);
  for (size_t d = 0; d < limit_bytes.size(); ++d) limits[d] = std::min(frugal, limit_bytes[d]);

  Best best(pipeline, limit_bytes.empty() ? limits : limit_bytes);
  best.offer(std::move(in_place));
  try_merges(pipeline, base, limits, &best);
  // More memory only where it buys time.
  if (!limit_bytes.empty() && limit_bytes != limits) try_merges(pipeline, base, limit_bytes, &best);
  return best.take();
}

}  // namespace moai::plan
