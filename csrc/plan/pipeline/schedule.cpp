#include "plan/pipeline/schedule.h"

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>

#include "ir/error.h"
#include "plan/pipeline/orders.h"
#include "plan/pipeline/walk.h"

namespace moai::plan {

namespace {

// Note [Channels]
// ~~~~~~~~~~~~~~~
// All messages that a device sends to the next one with activations, and all that it sends to the one before
// with gradients, are a channel each, as a communicator of its own is: what is sent k-th is received k-th. A
// device that received in another order would take one message for another, or wait forever. Each order here
// has forwards in the same sequence on all devices, and backwards too, so that channels agree by
// construction; orders differ only in how they merge the sequences. Two devices that are each other's next
// and previous (with chunks) have both channels in both directions.

constexpr int32_t kMostTasks = 1 << 28;

// Turns in groups of as many micro-batches as there are devices, a group through all chunks before the next.
std::vector<Turn> turns(const Pipeline& pipeline, TaskKind kind) {
  std::vector<Turn> all;
  all.reserve(static_cast<size_t>(pipeline.chunks) * pipeline.micro_batches);
  for (int32_t begin = 0; begin < pipeline.micro_batches; begin += pipeline.devices) {
    const int32_t end = std::min(begin + pipeline.devices, pipeline.micro_batches);
    for (int32_t c = 0; c < pipeline.chunks; ++c) {
      const int32_t chunk = kind == TaskKind::kForward ? c : pipeline.chunks - 1 - c;
      for (int32_t m = begin; m < end; ++m) all.push_back({chunk, m});
    }
  }
  return all;
}

Schedule empty_schedule(const Pipeline& pipeline) {
  Schedule schedule;
  schedule.devices = pipeline.devices;
  schedule.chunks = pipeline.chunks;
  schedule.micro_batches = pipeline.micro_batches;
  schedule.tasks.resize(pipeline.devices);
  return schedule;
}

Schedule gpipe(const Pipeline& pipeline) {
  Schedule schedule = empty_schedule(pipeline);
  const std::vector<Turn> forwards = forward_turns(pipeline);
  const std::vector<Turn> backwards = backward_turns(pipeline);
  for (int32_t d = 0; d < pipeline.devices; ++d) {
    for (const Turn& t : forwards) {
      schedule.tasks[d].push_back({TaskKind::kForward, t.chunk * pipeline.devices + d, t.micro_batch});
    }
    for (const Turn& t : backwards) {
      schedule.tasks[d].push_back({TaskKind::kBackward, t.chunk * pipeline.devices + d, t.micro_batch});
    }
  }
  return schedule;
}

void check_cost(double value, const char* name, size_t stage) {
  if (value >= 0 && value <= 1e300) return;
  throw Error(Phase::kPlan, concat("pipeline: ", name, " of stage ", stage, " is ", value))
      .hint("would work: a finite number, not negative");
}

// One of the two sequences of messages of a channel: the tasks that send, or those that receive.
std::vector<Task> messages(const std::vector<Task>& tasks, TaskKind kind, int32_t except_stage) {
  std::vector<Task> found;
  for (const Task& task : tasks) {
    if (task.kind == kind && task.stage != except_stage) found.push_back(task);
  }
  return found;
}

void check_channel(const Schedule& schedule, int32_t sender, int32_t receiver, TaskKind kind) {
  const bool forward = kind == TaskKind::kForward;
  const int32_t last = schedule.stages() - 1;
  const std::vector<Task> sent = messages(schedule.tasks[sender], kind, forward ? last : 0);
  const std::vector<Task> received = messages(schedule.tasks[receiver], kind, forward ? 0 : last);
  MOAI_ASSERT(sent.size() == received.size(), "a channel's ends differ");
  for (size_t i = 0; i < sent.size(); ++i) {
    const int32_t stage = sent[i].stage + (forward ? 1 : -1);
    if (received[i] == Task{kind, stage, sent[i].micro_batch}) continue;
    throw Error(Phase::kPlan,
                concat("device ", sender, " sends the result of the ", task_name(sent[i]), " where device ",
                       receiver, " receives for the ", task_name(received[i])))
        .hint("would work: the same order on both devices");
  }
}

// How many tasks of each stage and micro-batch were seen: 0 to 3 of forward, backward, weight, in this order.
void check_device(const Schedule& schedule, int32_t device, std::vector<uint8_t>* seen) {
  const int kinds = schedule.split ? 3 : 2;
  for (const Task& task : schedule.tasks[device]) {
    if (task.stage < 0 || task.stage >= schedule.stages() || task.micro_batch < 0 ||
        task.micro_batch >= schedule.micro_batches) {
      throw Error(Phase::kPlan,
                  concat("device ", device, " has the ", task_name(task), "; there are ", schedule.stages(),
                         " stages and ", schedule.micro_batches, " micro-batches"));
    }
    if (task.stage % schedule.devices != device) {
      throw Error(Phase::kPlan, concat("device ", device, " has the ", task_name(task), ", which is device ",
                                       task.stage % schedule.devices, "'s"));
    }
    uint8_t& before = (*seen)[static_cast<int64_t>(task.stage) * schedule.micro_batches + task.micro_batch];
    const int kind = static_cast<int>(task.kind);
    if (kind >= kinds) {
      throw Error(Phase::kPlan,
                  concat("device ", device, " has the ", task_name(task), ", but the schedule splits none"));
    }
    if (kind != before) {
      throw Error(Phase::kPlan, concat("device ", device, " has the ", task_name(task),
                                       kind < before ? " twice" : " before what it needs"));
    }
    ++before;
  }
}

}  // namespace

const char* order_name(Order order) {
  switch (order) {
    case Order::kGPipe: return "gpipe";
    case Order::k1F1B: return "1f1b";
    case Order::kZeroBubble: return "zero_bubble";
  }
  return "?";
}

std::string task_name(const Task& task) {
  const char* const names[] = {"forward", "backward", "weight gradients"};
  return concat(names[static_cast<int>(task.kind)], " of micro-batch ", task.micro_batch, " on stage ",
                task.stage);
}

void check(const Pipeline& pipeline) {
  if (pipeline.devices < 1 || pipeline.chunks < 1 || pipeline.micro_batches < 1) {
    throw Error(Phase::kPlan, concat("pipeline: ", pipeline.devices, " devices x ", pipeline.chunks,
                                     " chunks, ", pipeline.micro_batches, " micro-batches"))
        .hint("would work: at least one of each");
  }
  const int64_t stages = static_cast<int64_t>(pipeline.devices) * pipeline.chunks;
  if (stages > kMostTasks / 3 / pipeline.micro_batches) {
    throw Error(Phase::kPlan, concat("pipeline: ", stages, " stages x ", pipeline.micro_batches,
                                     " micro-batches are too many"))
        .hint(concat("would fit: up to ", kMostTasks / 3, " together"));
  }
  if (static_cast<int64_t>(pipeline.stages.size()) != stages) {
    throw Error(Phase::kPlan, concat("pipeline: costs of ", pipeline.stages.size(), " stages for ",
                                     pipeline.devices, " devices x ", pipeline.chunks, " chunks"));
  }
  for (size_t s = 0; s < pipeline.stages.size(); ++s) {
    const Pipeline::Stage& stage = pipeline.stages[s];
    check_cost(stage.forward_seconds, "forward_seconds", s);
    check_cost(stage.backward_seconds, "backward_seconds", s);
    check_cost(stage.weight_seconds, "weight_seconds", s);
    check_cost(stage.update_seconds, "update_seconds", s);
    check_cost(stage.activation_bytes, "activation_bytes", s);
    check_cost(stage.weight_bytes, "weight_bytes", s);
    check_cost(stage.resident_bytes, "resident_bytes", s);
    check_cost(stage.to_next.seconds, "to_next.seconds", s);
    check_cost(stage.to_next.latency_seconds, "to_next.latency_seconds", s);
    check_cost(stage.to_previous.seconds, "to_previous.seconds", s);
    check_cost(stage.to_previous.latency_seconds, "to_previous.latency_seconds", s);
  }
}

std::vector<Turn> forward_turns(const Pipeline& pipeline) { return turns(pipeline, TaskKind::kForward); }
std::vector<Turn> backward_turns(const Pipeline& pipeline) { return turns(pipeline, TaskKind::kBackward); }

// Interleaved as Narayanan et al. 2021 have it: device d starts with 2 (P - d - 1) + (V - 1) P forwards. They
// ask for a multiple of P micro-batches, since a last group that is shorter may not end. Here the rest of the
// last group is made up, and left out when the order is made: what is left needs none of it, so it ends.
Schedule one_forward_one_backward(const Pipeline& pipeline) {
  Schedule schedule = empty_schedule(pipeline);
  Pipeline padded = pipeline;
  padded.micro_batches =
      (pipeline.micro_batches + pipeline.devices - 1) / pipeline.devices * pipeline.devices;
  const std::vector<Turn> forwards = forward_turns(padded);
  const std::vector<Turn> backwards = backward_turns(padded);
  for (int32_t d = 0; d < pipeline.devices; ++d) {
    const size_t after = pipeline.devices - 1 - d;
    const size_t ahead = pipeline.chunks == 1 ? after
                                              : 2 * after + static_cast<size_t>(pipeline.chunks - 1) *
                                                                static_cast<size_t>(pipeline.devices);
    const auto add = [&](TaskKind kind, const Turn& t) {
      if (t.micro_batch >= pipeline.micro_batches) return;
      schedule.tasks[d].push_back({kind, t.chunk * pipeline.devices + d, t.micro_batch});
    };
    schedule.tasks[d].reserve(2 * static_cast<size_t>(pipeline.chunks) * pipeline.micro_batches);
    for (size_t i = 0; i < forwards.size() + ahead; ++i) {
      if (i < forwards.size()) add(TaskKind::kForward, forwards[i]);
      if (i >= ahead) add(TaskKind::kBackward, backwards[i - ahead]);
    }
  }
  return schedule;
}

Schedule split_weights(const Schedule& schedule) {
  Schedule split = schedule;
  split.split = true;
  for (std::vector<Task>& tasks : split.tasks) {
    std::vector<Task> with_weights;
    with_weights.reserve(tasks.size() / 2 * 3);
    for (const Task& task : tasks) {
      with_weights.push_back(task);
      if (task.kind != TaskKind::kBackward) continue;
      with_weights.push_back({TaskKind::kWeight, task.stage, task.micro_batch});
    }
    tasks = std::move(with_weights);
  }
  return split;
}

Schedule make_schedule(const Pipeline& pipeline, Order order, const std::vector<double>& limit_bytes) {
  check(pipeline);
  switch (order) {
    case Order::kGPipe: return gpipe(pipeline);
    case Order::k1F1B: return one_forward_one_backward(pipeline);
    case Order::kZeroBubble: return zero_bubble(pipeline, limit_bytes);
  }
  MOAI_ASSERT(false, "no such order");
  return {};
}

void verify(const Schedule& schedule) {
  if (schedule.devices < 1 || schedule.chunks < 1 || schedule.micro_batches < 1 ||
      static_cast<int64_t>(schedule.tasks.size()) != schedule.devices) {
    throw Error(Phase::kPlan, concat("a schedule of ", schedule.devices, " devices x ", schedule.chunks,
                                     " chunks and ", schedule.micro_batches, " micro-batches has tasks of ",
                                     schedule.tasks.size(), " devices"));
  }
  std::vector<uint8_t> seen(static_cast<size_t>(schedule.stages()) * schedule.micro_batches, 0);
  for (int32_t d = 0; d < schedule.devices; ++d) check_device(schedule, d, &seen);
  for (size_t i = 0; i < seen.size(); ++i) {
    if (seen[i] == (schedule.split ? 3 : 2)) continue;
    const Task task{static_cast<TaskKind>(seen[i]), static_cast<int32_t>(i / schedule.micro_batches),
                    static_cast<int32_t>(i % schedule.micro_batches)};
    throw Error(Phase::kPlan,
                concat("device ", task.stage % schedule.devices, " lacks the ", task_name(task)));
  }
  if (schedule.devices > 1) {
    for (int32_t d = 0; d < schedule.devices; ++d) {
      const int32_t next = (d + 1) % schedule.devices;
      check_channel(schedule, d, next, TaskKind::kForward);
      check_channel(schedule, next, d, TaskKind::kBackward);
    }
  }
  walk(schedule, [](int32_t, size_t, const Task&) {});
}

}  // namespace moai::plan
