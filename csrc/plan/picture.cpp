#include "plan/picture.h"

#include <algorithm>

namespace moai::plan {

namespace {

// Points of a turn's memory that are kept: the most of each stretch of time.
constexpr int32_t kPointsOfTurn = 48;

}  // namespace

Picture picture_of(const Pipeline& pipeline, const Schedule& schedule, const Simulation& simulation) {
  Picture picture;
  picture.memory.resize(static_cast<size_t>(schedule.devices));
  double all_done = 0;
  for (const auto& spans : simulation.spans) {
    for (const auto& span : spans) all_done = std::max(all_done, span.end);
  }
  for (int32_t d = 0; d < schedule.devices; ++d) {
    double held = 0, update = 0;
    for (int32_t s = d; s < schedule.stages(); s += schedule.devices) {
      held += pipeline.stages[s].resident_bytes;
      update += pipeline.stages[s].update_seconds;
    }
    auto& memory = picture.memory[d];
    memory.push_back({0, held});
    for (size_t t = 0; t < schedule.tasks[d].size(); ++t) {
      const Task& task = schedule.tasks[d][t];
      const Span& span = simulation.spans[d][t];
      const Pipeline::Stage& stage = pipeline.stages[task.stage];
      Picture::Kind kind = Picture::Kind::kForward;
      switch (task.kind) {
        case TaskKind::kForward:
          held += stage.activation_bytes;
          memory.push_back({span.start, held});
          break;
        case TaskKind::kBackward:
          kind = Picture::Kind::kBackward;
          held -= stage.activation_bytes - (schedule.split ? stage.weight_bytes : 0);
          memory.push_back({span.end, held});
          break;
        case TaskKind::kWeight:
          kind = Picture::Kind::kWeight;
          held -= stage.weight_bytes;
          memory.push_back({span.end, held});
          break;
      }
      picture.spans.push_back(
          {d, kind, task.stage / schedule.devices, task.micro_batch, span.start, span.end});
    }
    const double begin = pipeline.updates == Pipeline::Updates::kEach && !simulation.spans[d].empty()
                             ? simulation.spans[d].back().end
                             : all_done;
    if (update > 0) picture.spans.push_back({d, Picture::Kind::kUpdate, 0, 0, begin, begin + update});
  }
  return picture;
}

Picture picture_of(const Step& step, const Timeline& timeline, const Whole& whole, int32_t turns,
                   const std::vector<double>& live) {
  const auto nodes = static_cast<ir::NodeId>(step.graph.nodes().size());
  std::vector<ir::NodeId> forward, backward;
  for (ir::NodeId n = 0; n < step.roles.backward_end; ++n) {
    if (turns > 1 && !step.time.repeats[n]) continue;
    (n < step.roles.forward_end ? forward : backward).push_back(n);
  }
  const double forward_s = timeline.run(forward, false).seconds;
  const double backward_s = timeline.run(backward, false).seconds;
  const double update_s = std::max(0.0, whole.spent.seconds - turns * (forward_s + backward_s));
  Picture picture;
  picture.memory.resize(1);
  auto& memory = picture.memory[0];
  double now = 0;
  // One part's memory, each point the most that any node in its stretch of time sees.
  const auto draw = [&](ir::NodeId from, ir::NodeId to, double seconds) {
    if (from >= to || seconds <= 0) return;
    double total = 0;
    for (ir::NodeId n = from; n < to; ++n) total += timeline.seconds(n);
    double passed = 0, most = 0, stretch = 0;
    for (ir::NodeId n = from; n < to; ++n) {
      most = std::max(most, live[n]);
      passed += timeline.seconds(n);
      if (n + 1 < to && passed - stretch < total / kPointsOfTurn) continue;
      memory.push_back({now + (total > 0 ? stretch / total : 0) * seconds, most});
      stretch = passed;
      most = 0;
    }
  };
  for (int32_t t = 0; t < turns; ++t) {
    picture.spans.push_back({0, Picture::Kind::kForward, 0, t, now, now + forward_s});
    draw(0, step.roles.forward_end, forward_s);
    now += forward_s;
    picture.spans.push_back({0, Picture::Kind::kBackward, 0, t, now, now + backward_s});
    draw(step.roles.forward_end, step.roles.backward_end, backward_s);
    now += backward_s;
  }
  if (update_s > 0) picture.spans.push_back({0, Picture::Kind::kUpdate, 0, 0, now, now + update_s});
  draw(step.roles.backward_end, nodes, update_s);
  return picture;
}

}  // namespace moai::plan
