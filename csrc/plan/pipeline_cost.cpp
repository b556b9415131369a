#include "plan/pipeline_cost.h"

#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include "ir/error.h"
#include "plan/pipeline/stages.h"

namespace moai::plan {

namespace {

double still_bytes(const Stretch& stretch) {
  return stretch.bytes.weights + stretch.bytes.states + stretch.bytes.gradients;
}

StageProblem stage_problem(const std::vector<Stretch>& line, const OuterChoice& outer, double data,
                           double memory_bytes) {
  const int32_t stages = outer.stages * outer.chunks;
  StageProblem problem;
  double working = 0;
  for (const auto& stretch : line) {
    problem.seconds.push_back(stretch.forward + stretch.backward + stretch.weight);
    problem.state_bytes.push_back(still_bytes(stretch));
    problem.activation_bytes.push_back(stretch.bytes.activations);
    problem.cut_seconds.push_back(0);
    working = std::max(working, stretch.bytes.scratch + stretch.bytes.working);
  }
  problem.in_flight = in_flight_1f1b(stages, outer.micro_batches);
  problem.limit_bytes.assign(static_cast<size_t>(stages),
                             std::max(0.0, (memory_bytes - data - working) / outer.chunks));
  return problem;
}

// Bytes of weights that devices of one stage borrow from those of another, by stage.
struct Loan {
  int32_t from = 0, to = 0;
  double bytes = 0;
};
std::vector<Loan> loans(const std::vector<Stretch>& line, const Pipeline& pipeline,
                        const std::vector<int32_t>& begins) {
  const auto stage_of = [&](int32_t stretch) {
    return static_cast<int32_t>(std::upper_bound(begins.begin(), begins.end(), stretch) - begins.begin()) - 1;
  };
  std::vector<Loan> all;
  std::set<std::pair<ir::ValueId, int32_t>> known;
  for (size_t i = 0; i < line.size(); ++i) {
    const int32_t to = stage_of(static_cast<int32_t>(i));
    for (const auto& one : line[i].borrowed) {
      const int32_t from = stage_of(one.from);
      if (pipeline.device_of(from) == pipeline.device_of(to)) continue;
      if (known.emplace(one.weight, pipeline.device_of(to)).second) all.push_back({from, to, one.bytes});
    }
  }
  return all;
}

}  // namespace

PipelineCost pipeline_cost(const std::vector<Stretch>& line, const OuterChoice& outer, const Cluster& cluster,
                           double memory_bytes, bool draws) {
  PipelineCost out;
  const int32_t stages = outer.stages * outer.chunks;
  const auto stretches = static_cast<int32_t>(line.size());
  if (stages > stretches) {
    out.excess = concat(stages, " stages of ", stretches, " stretches of forward");
    out.peak_bytes = std::numeric_limits<double>::infinity();
    return out;
  }
  double data = 0;
  for (const auto& stretch : line) data += stretch.bytes.data;
  const StageProblem problem = stage_problem(line, outer, data, memory_bytes);
  out.stage_begins = cut_stages(problem).begins;

  // The slowest link between two neighbours sets the pace of all.
  const Group line_of_stages = axis_group(cluster, cluster.device_count() / outer.stages, outer.stages);
  const double latency = seconds(cluster, Collective::kSendReceive, line_of_stages, 0);
  // What a device does not hide of a message it waits for until the other side has it, as 1F1B with blocking
  // exchanges does (Narayanan et al. 2021): no task begins before.
  const double hidden = cluster.device(0).overlap;
  Pipeline pipeline;
  pipeline.devices = outer.stages;
  pipeline.chunks = outer.chunks;
  pipeline.micro_batches = outer.micro_batches;
  pipeline.updates = Pipeline::Updates::kTogether;
  std::vector<Bytes> bytes(static_cast<size_t>(outer.stages));
  std::vector<Spent> messages(static_cast<size_t>(outer.stages));  // inside stages
  std::vector<Spent> handed(messages.size());                      // between them
  for (int32_t s = 0; s < stages; ++s) {
    const int32_t end = s + 1 < stages ? out.stage_begins[s + 1] : stretches;
    Pipeline::Stage stage;
    Bytes& of_device = bytes[pipeline.device_of(s)];
    Spent& between = messages[pipeline.device_of(s)];
    double working = 0;  // with scratch
    for (int32_t i = out.stage_begins[s]; i < end; ++i) {
      const Stretch& one = line[i];
      stage.forward_seconds += one.forward;
      stage.backward_seconds += one.backward;
      stage.weight_seconds += one.weight;
      stage.update_seconds += one.update;
      stage.activation_bytes += one.bytes.activations;
      stage.resident_bytes += still_bytes(one);
      of_device.weights += one.bytes.weights;
      of_device.states += one.bytes.states;
      of_device.gradients += one.bytes.gradients;
      of_device.host += one.bytes.host * problem.in_flight[s];
      working = std::max(working, one.bytes.scratch + one.bytes.working);
      if (working > of_device.scratch + of_device.working) {
        of_device.scratch = one.bytes.scratch;
        of_device.working = one.bytes.working;
      }
      between.communicate += one.communicate * outer.micro_batches + one.update_communicate;
      between.exposed += one.exposed * outer.micro_batches + one.update_exposed;
      between.host += one.host * outer.micro_batches;
      between.exposed_host += one.exposed_host * outer.micro_batches;
    }
    of_device.data = data;
    const auto send = [&](const Stretch& cut, double* task) {
      const double taken =
          seconds(cluster, Collective::kSendReceive, line_of_stages, cut.cut_bytes) + cut.cut_seconds;
      const double waits = (1 - hidden) * taken;
      *task += waits;
      handed[pipeline.device_of(s)].communicate += taken * outer.micro_batches;
      handed[pipeline.device_of(s)].exposed += waits * outer.micro_batches;
      return Transfer{hidden * std::max(0.0, taken - latency), hidden * latency};
    };
    if (s + 1 < stages) stage.to_next = send(line[end - 1], &stage.forward_seconds);
    if (s > 0) stage.to_previous = send(line[out.stage_begins[s] - 1], &stage.backward_seconds);
    pipeline.stages.push_back(stage);
  }
  // Such a weight comes before the first turn, and its gradient goes when the last one is through: both wait.
  for (const Loan& loan : loans(line, pipeline, out.stage_begins)) {
    const double taken = 2 * seconds(cluster, Collective::kSendReceive, line_of_stages, loan.bytes);
    for (const int32_t s : {loan.from, loan.to}) {
      pipeline.stages[s].update_seconds += taken;
      handed[pipeline.device_of(s)].communicate += taken;
      handed[pipeline.device_of(s)].exposed += taken;
    }
    pipeline.stages[loan.to].resident_bytes += 2 * loan.bytes;
    bytes[pipeline.device_of(loan.to)].weights += loan.bytes;
    bytes[pipeline.device_of(loan.to)].gradients += loan.bytes;
  }
  for (int32_t d = 0; d < outer.stages; ++d)  // once for all of a device's virtual stages
    pipeline.stages[d].resident_bytes += data + bytes[d].scratch + bytes[d].working;
  out.schedule = std::make_shared<const Schedule>(make_schedule(pipeline, outer.order));
  const Schedule& schedule = *out.schedule;
  const Simulation simulation = simulate(schedule, pipeline);
  size_t fullest = 0;
  for (size_t d = 0; d < simulation.devices.size(); ++d) {
    if (simulation.devices[d].peak_bytes > simulation.devices[fullest].peak_bytes) fullest = d;
  }
  const auto& device = simulation.devices[fullest];
  out.peak_bytes = device.peak_bytes;
  out.bytes = bytes[fullest];
  out.bytes.activations = device.peak_bytes - out.bytes.total();
  out.bubble_seconds = device.bubble_seconds;
  // A stage's tasks are as long as they wait for their own messages.
  out.handed = handed[fullest];
  const double waits = messages[fullest].exposed + out.handed.exposed;
  out.handed.exposed += device.exposed_seconds;
  const double host_waits = messages[fullest].exposed_host;
  out.spent = {simulation.seconds,
               device.busy_seconds - waits - host_waits,
               messages[fullest].communicate + out.handed.communicate,
               device.exposed_seconds + waits,
               messages[fullest].host,
               host_waits};
  if (draws) out.picture = picture_of(pipeline, schedule, simulation);
  return out;
}

}  // namespace moai::plan
