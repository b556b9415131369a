#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "ir/error.h"
#include "plan/pipeline/orders.h"
#include "plan/pipeline/schedule.h"
#include "plan/pipeline/walk.h"

namespace moai::plan {

namespace {

// The end of a task, and when its message reaches the next stage.
struct Message {
  double sent = 0;
  double arrives = 0;
};

class Run {
 public:
  Run(const Schedule& schedule, const Pipeline& pipeline, Simulation* simulation)
      : schedule_(schedule),
        pipeline_(pipeline),
        simulation_(*simulation),
        last_(schedule.stages() - 1),
        forward_(static_cast<size_t>(schedule.stages()) * schedule.micro_batches),
        backward_(forward_.size()),
        free_(schedule.devices, 0),
        stream_free_(schedule.devices, 0),
        held_bytes_(schedule.devices, 0) {
    simulation_.devices.resize(schedule.devices);
    simulation_.spans.resize(schedule.devices);
    for (int32_t d = 0; d < schedule.devices; ++d) simulation_.spans[d].resize(schedule.tasks[d].size());
    for (int32_t s = 0; s <= last_; ++s)
      held_bytes_[s % schedule.devices] += pipeline.stages[s].resident_bytes;
    for (int32_t d = 0; d < schedule.devices; ++d) simulation_.devices[d].peak_bytes = held_bytes_[d];
  }

  void task(int32_t device, size_t position, const Task& task) {
    const Pipeline::Stage& stage = pipeline_.stages[task.stage];
    const int64_t index = static_cast<int64_t>(task.stage) * schedule_.micro_batches + task.micro_batch;
    Simulation::Device& result = simulation_.devices[device];
    Message received;  // there from the start, where the task needs none
    Message* made = nullptr;
    const Transfer* transfer = nullptr;  // of what it made
    double seconds = 0;
    double& held = held_bytes_[device];
    switch (task.kind) {
      case TaskKind::kForward:
        if (task.stage > 0) received = forward_[index - schedule_.micro_batches];
        made = &forward_[index];
        if (task.stage < last_) transfer = &stage.to_next;
        seconds = stage.forward_seconds;
        held += stage.activation_bytes;
        result.peak_bytes = std::max(result.peak_bytes, held);
        break;
      case TaskKind::kBackward:
        if (task.stage < last_) received = backward_[index + schedule_.micro_batches];
        made = &backward_[index];
        if (task.stage > 0) transfer = &stage.to_previous;
        seconds = stage.backward_seconds + (schedule_.split ? 0 : stage.weight_seconds);
        held -= stage.activation_bytes;
        if (schedule_.split) held += stage.weight_bytes;
        result.peak_bytes = std::max(result.peak_bytes, held);
        break;
      case TaskKind::kWeight:
        seconds = stage.weight_seconds;
        held -= stage.weight_bytes;
        break;
    }
    const double free = free_[device];
    const double start = std::max(free, received.arrives);
    const double exposed = std::max(0.0, start - std::max(free, received.sent));
    const double end = start + seconds;
    result.exposed_seconds += exposed;
    result.busy_seconds += seconds;
    simulation_.spans[device][position] = {start, end};
    free_[device] = end;
    if (made == nullptr) return;
    *made = {end, end};
    if (transfer == nullptr || schedule_.devices == 1) return;
    stream_free_[device] = std::max(stream_free_[device], end) + transfer->seconds;
    made->arrives = stream_free_[device] + transfer->latency_seconds;
  }

  void finish() {
    const double all_done = *std::max_element(free_.begin(), free_.end());
    std::vector<double> update_seconds(schedule_.devices, 0);
    for (int32_t s = 0; s <= last_; ++s) {
      update_seconds[s % schedule_.devices] += pipeline_.stages[s].update_seconds;
    }
    for (int32_t d = 0; d < schedule_.devices; ++d) {
      const double start = pipeline_.updates == Pipeline::Updates::kEach ? free_[d] : all_done;
      simulation_.devices[d].busy_seconds += update_seconds[d];
      simulation_.seconds = std::max(simulation_.seconds, start + update_seconds[d]);
    }
    for (Simulation::Device& device : simulation_.devices) {
      device.bubble_seconds =
          std::max(0.0, simulation_.seconds - device.busy_seconds - device.exposed_seconds);
    }
  }

 private:
  const Schedule& schedule_;
  const Pipeline& pipeline_;
  Simulation& simulation_;
  int32_t last_;
  std::vector<Message> forward_;  // by stage, micro-batch
  std::vector<Message> backward_;
  std::vector<double> free_;         // by device: when it has done what it did so far
  std::vector<double> stream_free_;  // by device: when all that it sent so far has left
  std::vector<double> held_bytes_;
};

}  // namespace

Simulation simulate(const Schedule& schedule, const Pipeline& pipeline) {
  check(pipeline);
  if (pipeline.devices != schedule.devices || pipeline.chunks != schedule.chunks ||
      pipeline.micro_batches != schedule.micro_batches) {
    throw Error(Phase::kPlan,
                concat("a schedule of ", schedule.devices, " devices x ", schedule.chunks, " chunks and ",
                       schedule.micro_batches, " micro-batches, costs of ", pipeline.devices, " x ",
                       pipeline.chunks, " and ", pipeline.micro_batches));
  }
  Simulation simulation;
  Run run(schedule, pipeline, &simulation);
  walk(schedule,
       [&](int32_t device, size_t position, const Task& task) { run.task(device, position, task); });
  run.finish();
  return simulation;
}

// Note [Least seconds of a pipeline]
// ~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~
// F, B, W are a stage's seconds (B includes W where the order does not split), M the micro-batches, a and g
// the seconds of a message with activations or gradients, latency included, that leaves at once. Let
//
//   head(s) = the sum of F(r) + a(r) over stages r < s: no task of stage s starts earlier, as its first
//             forward needs a chain of one forward and one message of each stage before;
//   tail(s) = max(W(s) + O(device of s), g(s) + B(s-1) + tail(s-1)), the latter where s > 0: what follows the
//             end of any backward of stage s, as either its weight gradients (if apart) and its device's
//             update, or its message, the backward that needs it, and what follows that. It grows with s.
//
// Then no schedule takes less than any of:
//
//   1. head(d) + M sum(F + B over d's stages) + tail(d), for each device d. Nothing starts on d before
//      head(d), d being its first stage. The last of its forwards and backwards is a backward, as each
//      forward's own comes later; all that work lies before its end, and at least tail(d), the least of the
//      tails of d's stages, after.
//   2. head(s) + M (F(s) + B(s)) + tail(s), for each stage: the same for the tasks of one stage. For the last
//      stage this covers the way of one micro-batch through all stages and back.
//   3. head(d) + M sum(F + B + W) + O(d): all of a device's work.
//   4. head(d) + F(d) + M sum(seconds of the messages that d sends): its first task comes before its first
//      message, and its messages leave one after another.
//
// Where updates wait for all devices, this holds for the time until then, with O = 0; the longest follows.
double least_seconds(const Pipeline& pipeline, Order order) {
  check(pipeline);
  const bool split = order == Order::kZeroBubble;
  const bool together = pipeline.updates == Pipeline::Updates::kTogether;
  const int32_t stages = pipeline.devices * pipeline.chunks;
  const double m = pipeline.micro_batches;
  struct Work {
    double head = -1;
    double tail = 0;
    double first = 0;
    double forward_backward = 0;
    double weight = 0;
    double messages = 0;
    double update = 0;
  };
  std::vector<Work> devices(pipeline.devices);
  double longest_update = 0;
  for (int32_t s = 0; s < stages; ++s) {
    Work& device = devices[pipeline.device_of(s)];
    device.update += pipeline.stages[s].update_seconds;
    longest_update = std::max(longest_update, device.update);
  }
  double least = 0;
  double head = 0;
  double tail = 0;
  for (int32_t s = 0; s < stages; ++s) {
    const Pipeline::Stage& stage = pipeline.stages[s];
    Work& device = devices[pipeline.device_of(s)];
    const bool sends = pipeline.devices > 1;
    const double backward = stage.backward_seconds + (split ? 0 : stage.weight_seconds);
    const double weight = split ? stage.weight_seconds : 0;
    const double own = weight + (together ? 0 : device.update);
    if (s == 0) {
      tail = own;
    } else {
      const Pipeline::Stage& before = pipeline.stages[s - 1];
      const double transfer = sends ? stage.to_previous.seconds + stage.to_previous.latency_seconds : 0;
      const double previous = before.backward_seconds + (split ? 0 : before.weight_seconds);
      tail = std::max(own, transfer + previous + tail);
      if (sends) device.messages += m * stage.to_previous.seconds;
    }
    if (device.head < 0) {
      device.head = head;
      device.tail = tail;
      device.first = stage.forward_seconds;
    }
    device.forward_backward += m * (stage.forward_seconds + backward);
    device.weight += m * weight;
    least = std::max(least, head + m * (stage.forward_seconds + backward) + tail);
    if (s + 1 == stages) break;
    head += stage.forward_seconds;
    if (sends) head += stage.to_next.seconds + stage.to_next.latency_seconds;
    if (sends) device.messages += m * stage.to_next.seconds;
  }
  for (const Work& d : devices) {
    const double update = together ? 0 : d.update;
    least = std::max(least, d.head + d.forward_backward + d.tail);
    least = std::max(least, d.head + d.forward_backward + d.weight + update);
    least = std::max(least, d.head + d.first + d.messages);
  }
  return least + (together ? longest_update : 0);
}

}  // namespace moai::plan
