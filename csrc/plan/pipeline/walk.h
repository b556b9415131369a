#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "ir/error.h"
#include "plan/pipeline/schedule.h"

namespace moai::plan {

std::string task_name(const Task& task);  // "forward of micro-batch 3 on stage 2"

// Calls visit(device, index, task) for every task of a schedule after those that it needs. Linear in tasks.
// Stages and micro-batches must be in range. Throws Error(Phase::kPlan) if devices wait forever.
template <typename Visit>
void walk(const Schedule& schedule, Visit visit) {
  const int32_t last = schedule.stages() - 1;
  const int64_t count = static_cast<int64_t>(schedule.stages()) * schedule.micro_batches;
  std::vector<char> forward_done(count, 0);
  std::vector<char> backward_done(count, 0);
  std::vector<size_t> next(schedule.devices, 0);
  std::vector<char> waits(schedule.devices, 0);
  std::vector<int32_t> ready;
  for (int32_t d = schedule.devices - 1; d >= 0; --d) ready.push_back(d);
  const auto index = [&](int32_t stage, int32_t micro_batch) {
    return static_cast<int64_t>(stage) * schedule.micro_batches + micro_batch;
  };
  const auto can_run = [&](const Task& task) {
    switch (task.kind) {
      case TaskKind::kForward:
        return task.stage == 0 || forward_done[index(task.stage - 1, task.micro_batch)];
      case TaskKind::kBackward:
        return forward_done[index(task.stage, task.micro_batch)] &&
               (task.stage == last || backward_done[index(task.stage + 1, task.micro_batch)]);
      case TaskKind::kWeight: return backward_done[index(task.stage, task.micro_batch)] != 0;
    }
    return false;
  };
  const auto wake = [&](int32_t stage) {
    const int32_t device = stage % schedule.devices;
    if (waits[device]) ready.push_back(device);
    waits[device] = 0;
  };
  while (!ready.empty()) {
    const int32_t device = ready.back();
    ready.pop_back();
    const std::vector<Task>& tasks = schedule.tasks[device];
    for (; next[device] < tasks.size(); ++next[device]) {
      const Task& task = tasks[next[device]];
      if (!can_run(task)) {
        waits[device] = 1;
        break;
      }
      visit(device, next[device], task);
      if (task.kind == TaskKind::kForward) {
        forward_done[index(task.stage, task.micro_batch)] = 1;
        if (task.stage < last) wake(task.stage + 1);
      } else if (task.kind == TaskKind::kBackward) {
        backward_done[index(task.stage, task.micro_batch)] = 1;
        if (task.stage > 0) wake(task.stage - 1);
      }
    }
  }
  for (int32_t d = 0; d < schedule.devices; ++d) {
    if (!waits[d]) continue;
    throw Error(Phase::kPlan, concat("the schedule never ends: device ", d, " waits forever to start the ",
                                     task_name(schedule.tasks[d][next[d]])));
  }
}

}  // namespace moai::plan
