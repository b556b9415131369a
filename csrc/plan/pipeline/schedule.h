#pragma once

#include <cstdint>
#include <vector>

namespace moai::plan {

// What a message between two stages takes: its sender's stream for `seconds`, and it is there
// `latency_seconds` after it has left.
struct Transfer {
  double seconds = 0;
  double latency_seconds = 0;
};

// A step that is split into stages in line, and what each costs a micro-batch.
//
// Virtual stage `s` runs on device (or group of devices that work as one) `s % devices`, so that a device
// has `chunks` stages. Messages between stages of one device cost nothing.
struct Pipeline {
  struct Stage {
    double forward_seconds = 0;
    double backward_seconds = 0;  // input gradients; weight gradients too where they cannot be set apart
    double weight_seconds = 0;  // weight gradients; follows the former at once where the order does not split
    double update_seconds = 0;  // the optimizer's, once, after all of the device's micro-batches
    double activation_bytes = 0;  // of a micro-batch, from its forward's start to its backward's end
    double weight_bytes = 0;      // from then to the end of its weight gradients, where these are apart
    double resident_bytes = 0;    // what stays: weights, states, gradients, scratch of the largest task
    Transfer to_next;             // activations
    Transfer to_previous;         // gradients
  };

  // Whether an update may start when its own device is done, or only when all are: clipping by global norm.
  enum class Updates { kEach, kTogether };

  int32_t devices = 1;
  int32_t chunks = 1;
  int32_t micro_batches = 1;
  std::vector<Stage> stages;  // devices x chunks
  Updates updates = Updates::kEach;

  int32_t device_of(int32_t stage) const { return stage % devices; }
};

enum class Order {
  kGPipe,      // all forwards, then all backwards (Huang et al. 2019)
  k1F1B,       // one forward, one backward (Narayanan et al. 2019); with chunks interleaved (the same, 2021)
  kZeroBubble  // weight gradients apart, where devices would wait (Qi et al. 2023)
};

const char* order_name(Order order);  // "gpipe", "1f1b", "zero_bubble"

enum class TaskKind : uint8_t { kForward, kBackward, kWeight };

struct Task {
  TaskKind kind = TaskKind::kForward;
  int32_t stage = 0;  // virtual
  int32_t micro_batch = 0;

  bool operator==(const Task& o) const {
    return kind == o.kind && stage == o.stage && micro_batch == o.micro_batch;
  }
};

// What each device does, in order; updates follow and are not listed.
struct Schedule {
  int32_t devices = 1;
  int32_t chunks = 1;
  int32_t micro_batches = 1;
  bool split = false;  // weight gradients are tasks of their own
  std::vector<std::vector<Task>> tasks;

  int32_t stages() const { return devices * chunks; }
};

// The schedule of an order. Deterministic.
//
// * Only zero-bubble heeds `limit_bytes`: all that each device may hold, which its schedule keeps to.
//   Empty: what the fullest device holds under 1F1B with each weight gradient right after its backward, or
//   the least that always works if that is more.
// * Zero-bubble is the fastest of some that are tried, and of equals the one that holds least; never slower
//   than 1F1B if that keeps to the limits. It takes some ten times as long to make as the others, which are
//   linear in tasks, and a logarithm of devices.
//
// Throws Error(Phase::kPlan) on costs that are negative or not as many as stages, and where a limit is below
// what zero-bubble always works with, with these bytes.
Schedule make_schedule(const Pipeline& pipeline, Order order, const std::vector<double>& limit_bytes = {});

// Throws Error(Phase::kPlan) that names the task, unless every task is there once and on its device, each
// device has a micro-batch's forward, backward and weight gradients in this order, every channel's
// messages are sent in the order in which they are received, and all devices can finish. See Note [Channels].
void verify(const Schedule& schedule);

struct Span {
  double start = 0;
  double end = 0;
};

// How a schedule goes. For each device, busy + bubble + exposed = `seconds`.
struct Simulation {
  struct Device {
    double busy_seconds = 0;     // tasks and updates
    double exposed_seconds = 0;  // idle while the message it waits for is queued or on its way
    double bubble_seconds = 0;   // idle otherwise
    double peak_bytes = 0;
  };
  double seconds = 0;
  std::vector<Device> devices;
  std::vector<std::vector<Span>> spans;  // by device, as Schedule::tasks
};

// Runs a schedule: each device takes its tasks in order, each as soon as its message is there. Messages leave
// on one stream a device, in the order of the tasks that made them, while the device goes on.
//
// Buffers of messages are not counted. The tasks must be those that `verify` asks for, whatever their order.
// Linear in tasks. Throws Error(Phase::kPlan) where devices wait for each other forever, or the costs are not
// those of these stages.
Simulation simulate(const Schedule& schedule, const Pipeline& pipeline);

// Seconds that no schedule of this order comes below; for zero-bubble no schedule at all. Linear in stages.
// See Note [Least seconds of a pipeline] in simulate.cpp.
double least_seconds(const Pipeline& pipeline, Order order);

}  // namespace moai::plan
