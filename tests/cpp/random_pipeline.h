// Random pipelines and schedules, and a simulator written from the definition.
#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "plan/pipeline/schedule.h"

namespace moai::plan {

// All stages alike, nothing on the wire.
inline Pipeline equal_stages(int32_t devices, int32_t chunks, int32_t micro_batches, double forward,
                             double backward, double weight) {
  Pipeline pipeline;
  pipeline.devices = devices;
  pipeline.chunks = chunks;
  pipeline.micro_batches = micro_batches;
  Pipeline::Stage stage;
  stage.forward_seconds = forward;
  stage.backward_seconds = backward;
  stage.weight_seconds = weight;
  stage.activation_bytes = 1;
  stage.weight_bytes = 1;
  pipeline.stages.assign(static_cast<size_t>(devices) * chunks, stage);
  return pipeline;
}

class RandomPipeline {
 public:
  explicit RandomPipeline(uint32_t seed) : random_(seed) {}

  int32_t below(int32_t end) { return static_cast<int32_t>(random_() % static_cast<uint32_t>(end)); }
  double real() { return below(1 << 20) / static_cast<double>(1 << 20); }

  Pipeline make() {
    Pipeline pipeline = equal_stages(1 + below(5), below(2) ? 1 : 2 + below(3), 1 + below(10), 0, 0, 0);
    const bool whole = below(3) == 0;  // small whole numbers: many ties, some zeros
    const bool messages = below(3) > 0;
    const auto cost = [&] { return whole ? below(4) : 0.2 + real(); };
    for (Pipeline::Stage& stage : pipeline.stages) {
      stage.forward_seconds = cost();
      stage.backward_seconds = cost();
      stage.weight_seconds = cost();
      stage.update_seconds = cost();
      stage.activation_bytes = below(9);
      stage.weight_bytes = below(9);
      stage.resident_bytes = below(9);
      if (!messages) continue;
      const double scale = below(4) ? 0.2 : 2;
      stage.to_next = {scale * cost(), below(2) * 0.1 * cost()};
      stage.to_previous = {scale * cost(), below(2) * 0.1 * cost()};
    }
    if (below(3) == 0) pipeline.updates = Pipeline::Updates::kTogether;
    return pipeline;
  }

  // Tasks in any order that ends: whatever can be done next, on any device.
  Schedule any_schedule(const Pipeline& pipeline, bool split) {
    Schedule schedule;
    schedule.devices = pipeline.devices;
    schedule.chunks = pipeline.chunks;
    schedule.micro_batches = pipeline.micro_batches;
    schedule.split = split;
    schedule.tasks.resize(pipeline.devices);
    std::vector<Task> can_run;
    for (int32_t m = 0; m < pipeline.micro_batches; ++m) can_run.push_back({TaskKind::kForward, 0, m});
    const int32_t last = schedule.stages() - 1;
    const bool latest = below(2) == 0;  // mostly depth first, as 1F1B is
    while (!can_run.empty()) {
      const int32_t count = static_cast<int32_t>(can_run.size());
      const int32_t i = latest && below(4) ? count - 1 : below(count);
      const Task task = can_run[i];
      can_run.erase(can_run.begin() + i);
      schedule.tasks[task.stage % pipeline.devices].push_back(task);
      if (task.kind == TaskKind::kForward) {
        const bool turns = task.stage == last;
        can_run.push_back({turns ? TaskKind::kBackward : TaskKind::kForward, task.stage + (turns ? 0 : 1),
                           task.micro_batch});
      } else if (task.kind == TaskKind::kBackward) {
        if (split) can_run.push_back({TaskKind::kWeight, task.stage, task.micro_batch});
        if (task.stage > 0) can_run.push_back({TaskKind::kBackward, task.stage - 1, task.micro_batch});
      }
    }
    return schedule;
  }

 private:
  std::mt19937 random_;
};

// Starts and ends of all tasks, by going over all of them until nothing moves: quadratic in tasks.
inline Simulation naive_simulation(const Schedule& schedule, const Pipeline& pipeline) {
  const size_t pairs = static_cast<size_t>(schedule.stages()) * schedule.micro_batches;
  const auto index = [&](int32_t stage, int32_t micro_batch) {
    return static_cast<size_t>(stage) * schedule.micro_batches + micro_batch;
  };
  std::vector<double> arrives[3];  // by kind: of what a task makes, at the stage that needs it
  for (std::vector<double>& of_kind : arrives) of_kind.assign(pairs, 0);
  Simulation simulation;
  simulation.devices.resize(schedule.devices);
  simulation.spans.resize(schedule.devices);
  for (int32_t d = 0; d < schedule.devices; ++d) simulation.spans[d].resize(schedule.tasks[d].size());
  for (bool moved = true; moved;) {
    moved = false;
    for (int32_t d = 0; d < schedule.devices; ++d) {
      double free = 0;
      double stream = 0;
      for (size_t i = 0; i < schedule.tasks[d].size(); ++i) {
        const Task& task = schedule.tasks[d][i];
        const Pipeline::Stage& stage = pipeline.stages[task.stage];
        const bool forward = task.kind == TaskKind::kForward;
        const bool backward = task.kind == TaskKind::kBackward;
        double seconds = stage.weight_seconds;
        if (forward) seconds = stage.forward_seconds;
        if (backward) seconds = stage.backward_seconds + (schedule.split ? 0 : stage.weight_seconds);
        double start = free;
        if (forward && task.stage > 0) {
          start = std::max(start, arrives[0][index(task.stage - 1, task.micro_batch)]);
        }
        if (backward && task.stage + 1 < schedule.stages()) {
          start = std::max(start, arrives[1][index(task.stage + 1, task.micro_batch)]);
        }
        Span& span = simulation.spans[d][i];
        moved = moved || span.start != start || span.end != start + seconds;
        span = {start, start + seconds};
        free = span.end;
        const bool sends = schedule.devices > 1 &&
                           ((forward && task.stage + 1 < schedule.stages()) || (backward && task.stage > 0));
        double& arrival = arrives[static_cast<int>(task.kind)][index(task.stage, task.micro_batch)];
        const double before = arrival;
        arrival = free;
        if (sends) {
          const Transfer& transfer = forward ? stage.to_next : stage.to_previous;
          stream = std::max(stream, free) + transfer.seconds;
          arrival = stream + transfer.latency_seconds;
        }
        moved = moved || arrival != before;
      }
    }
  }
  double all_done = 0;
  std::vector<double> done(schedule.devices, 0);
  for (int32_t d = 0; d < schedule.devices; ++d) {
    for (const Span& span : simulation.spans[d]) done[d] = std::max(done[d], span.end);
    all_done = std::max(all_done, done[d]);
  }
  for (int32_t d = 0; d < schedule.devices; ++d) {
    double end = pipeline.updates == Pipeline::Updates::kTogether ? all_done : done[d];
    double resident = 0;
    for (int32_t s = d; s < schedule.stages(); s += schedule.devices) {
      end += pipeline.stages[s].update_seconds;
      resident += pipeline.stages[s].resident_bytes;
    }
    simulation.seconds = std::max(simulation.seconds, end);
    // What is held after each task: activations between forward and backward, and what weights need after.
    double& peak = simulation.devices[d].peak_bytes;
    peak = resident;
    for (size_t i = 0; i < schedule.tasks[d].size(); ++i) {
      std::vector<int> last(pairs, 3);  // the kind of the last task done (or begun: a forward)
      for (size_t j = 0; j <= i; ++j) {
        const Task& task = schedule.tasks[d][j];
        last[index(task.stage, task.micro_batch)] = static_cast<int>(task.kind);
      }
      double held = resident;
      for (size_t at = 0; at < pairs; ++at) {
        const Pipeline::Stage& stage = pipeline.stages[at / schedule.micro_batches];
        if (last[at] == 0) held += stage.activation_bytes;
        if (last[at] == 1 && schedule.split) held += stage.weight_bytes;
      }
      peak = std::max(peak, held);
    }
  }
  return simulation;
}

}  // namespace moai::plan
