#include "engine/choose.h"

#include <algorithm>

#include "compile/local/parts.h"
#include "engine/log.h"
#include "engine/stats.h"
#include "ir/arg.h"
#include "ir/error.h"
#include "plan/explain.h"
#include "plan/pairs.h"
#include "plan/plan_file.h"
#include "plan/prepare.h"
#include "plan/random_plan.h"
#include "plan/replay.h"
#include "plan/send_rows.h"
#include "plan/step.h"

namespace moai::engine {

namespace {

using plan::Placement;
using plan::Split;

// Of the solver, for each of its questions: a step waits for the answer, which need not be proven best.
constexpr double kSolverSteps = 2e8;
constexpr int32_t kSolverBranches = 4;
// How much more slots experts get each time, until there is one for each row that could come.
constexpr double kWider = 1.6;

plan::Cluster cluster_of(const Settings& settings) {
  const bool measured = !settings.cluster.empty();
  plan::Cluster cluster = plan::parse_cluster(measured ? settings.cluster : concat("cpu:", settings.devices));
  if (!measured && !settings.indices.empty())
    cluster.name = concat("cuda:", settings.indices.front(), "-", settings.indices.back());
  if (settings.memory_bytes >= 0) {
    for (auto& kind : cluster.kinds) kind.memory_bytes = settings.memory_bytes;
  }
  return cluster;
}

runtime::Sharding::Digits digits_of(const std::vector<int64_t>& sizes,
                                    const std::vector<compile::Part>& parts) {
  runtime::Sharding::Digits digits;
  for (size_t k = 0; k < sizes.size(); ++k) digits.push_back({sizes[k], parts[k].start, parts[k].length});
  return digits;
}

// Meshes of `devices` devices, of up to three axes of more than one.
void meshes_of(int32_t devices, std::vector<int32_t>* mesh, std::vector<std::vector<int32_t>>* all) {
  if (devices == 1) return all->push_back(*mesh);
  if (mesh->size() == 3) return;
  for (int32_t size = 2; size <= devices; ++size) {
    if (devices % size != 0) continue;
    mesh->push_back(size);
    meshes_of(devices / size, mesh, all);
    mesh->pop_back();
  }
}

// The placement, among those that the frame's atoms allow, under which an input lies as it does now.
Placement placement_of(const Choice& choice, ir::ValueId input, const runtime::Sharding& lies) {
  const auto sizes = plan::leaf_sizes(choice.frame, input);
  std::vector<Split> splits{Split{}};
  for (size_t d = 0; d < sizes.size(); ++d) {
    for (size_t k = 0; k < sizes[d].size(); ++k)
      splits.push_back({Split::Kind::kShard, static_cast<int16_t>(d), static_cast<int16_t>(k)});
  }
  Placement placement(choice.mesh.axes.size());
  std::vector<size_t> index(placement.size(), 0);
  for (;;) {
    for (size_t a = 0; a < placement.size(); ++a) placement[a] = splits[index[a]];
    if (sharding_of(choice, input, placement) == lies) return placement;
    size_t a = 0;
    while (a < index.size() && ++index[a] == splits.size()) index[a++] = 0;
    if (a == index.size()) return {};
  }
}

compile::Stages stages_of(const plan::Step& step, const compile::Loop& loop, const plan::OuterChoice& outer,
                          const std::vector<int32_t>& begins,
                          const std::shared_ptr<const plan::Schedule>& schedule) {
  if (outer.stages == 1) return compile::Stages::none(step.graph, loop);
  return compile::Stages::planned(step, loop, outer.stages, begins, schedule);
}

[[noreturn]] void fits_nowhere(const std::string& excess, const std::vector<plan::MemoryPart>& parts) {
  constexpr size_t kMostParts = 4;
  OutOfMemory error(Phase::kPlan, concat("no plan of this step fits: ", excess));
  if (!parts.empty()) error.detail("most of it: " + plan::memory_text(parts, kMostParts));
  error.hint("would fit: more devices, more memory on each (MOAI_DEVICE_MEMORY), or a smaller batch");
  throw error;
}

}  // namespace

bool trains(const ir::Graph& graph) {
  return std::any_of(graph.nodes().begin(), graph.nodes().end(),
                     [](const ir::Node& node) { return node.section == ir::Section::kBackward; });
}

runtime::Sharding sharding_of(const Choice& choice, ir::ValueId value, const Placement& placement) {
  Placement in_turns = placement;
  const auto sizes = compile::with_turns(choice.frame, value, choice.loop, &in_turns);
  const compile::GroupSet groups = choice.stages.groups_of_value(choice.graph, value);
  std::vector<std::vector<runtime::Sharding::Digits>> by_device;
  std::vector<bool> holds;
  for (int32_t group = 0; group < choice.stages.groups; ++group) {
    for (const auto& place : compile::places_of(choice.mesh.sizes())) {
      const auto parts = compile::parts_of(place, sizes, in_turns);
      by_device.emplace_back();
      for (size_t i = 0; i < sizes.size(); ++i) by_device.back().push_back(digits_of(sizes[i], parts[i]));
      holds.push_back((groups & compile::Stages::one(group)) != 0);
    }
  }
  return {choice.graph.type(value), by_device, holds};
}

Chooser::Chooser(const Settings& settings)
    : cluster_(cluster_of(settings)),
      is_free_(settings.plan.empty() || settings.plan == "fastest"),
      cache_(settings.cache_of("plans")),
      asked_(concat(settings.build, "; ", ir::mix_text(0, plan::print_json(cluster_)), "; ", settings.plan)) {
  for (const auto& kind : cluster_.kinds) memory_bytes_.push_back(kind.memory_bytes);
  const std::string& text = settings.plan;
  if (!text.empty() && text.front() == '{') {
    pins_.saved = std::make_shared<const plan::SavedPlan>(plan::load_plan(text));
  } else if (!text.empty() && text != "fastest") {
    pins_ = plan::parse_pins(text);
  }
  pins_.solver_steps = kSolverSteps;
  pins_.solver_branches = kSolverBranches;
  pins_.may_idle = true;
  // Until a step trains nothing lies in stages.
  shape_.mesh = {settings.devices};
  if (!pins_.axes.empty()) {
    plan::Pair pair = plan::pinned_pair(pins_, cluster_);  // throws where the devices are not as many
    if (pair.stages == 1) shape_.mesh = std::move(pair.sizes);
  }
}

void Chooser::tell_memory(double share) {
  for (size_t k = 0; k < cluster_.kinds.size(); ++k)
    cluster_.kinds[k].memory_bytes = static_cast<int64_t>(static_cast<double>(memory_bytes_[k]) * share);
}

Choice Chooser::choose(const ir::Graph& graph, const std::vector<runtime::ShardingPtr>& lie, double share) {
  tell_memory(share);
  if (pins_.random) return at_random(graph);
  stats().searches.fetch_add(1, std::memory_order_relaxed);
  return trains(graph) ? planned(graph) : in_place(graph, lie);
}

void Chooser::correct(const Correction& correction) {
  is_corrected_ = true;
  for (auto& kind : cluster_.kinds) {
    for (auto* rate : {&kind.gemm_efficiency, &kind.attention_efficiency, &kind.memory_efficiency})
      *rate /= correction.compute;
    kind.op_overhead_s *= correction.compute;
    kind.host_bytes_per_s /= correction.compute;  // waiting for it is measured as computing
  }
  for (auto& level : cluster_.levels) {
    for (auto* seconds : {&level.latency_s, &level.start_s}) *seconds *= correction.communicate;
    for (auto* rate : {&level.bytes_per_s, &level.pair_bytes_per_s, &level.switch_reduce_bytes_per_s})
      *rate /= correction.communicate;
  }
}

double Chooser::capacity() const {
  return pins_.saved ? pins_.saved->outer.capacity : pins_.capacity.value_or(pins_.usual_capacity);
}

void Chooser::widen() {
  const double wider = std::min(kWider * capacity(), plan::kMostCapacity);
  pins_.usual_capacity = wider;
  if (pins_.capacity) pins_.capacity = wider;
  if (!pins_.saved) return;
  auto saved = std::make_shared<plan::SavedPlan>(*pins_.saved);
  saved->outer.capacity = wider;
  pins_.saved = saved;
}

// The graph counts as it is printed: a plan tells nodes by their numbers.
std::string Chooser::question(const ir::Graph& graph, const std::vector<runtime::ShardingPtr>& lie) const {
  std::string text = concat(asked_, "; capacity ", capacity(), "; graph ", ir::mix_text(0, ir::print(graph)));
  if (trains(graph)) return text;
  uint64_t state = ir::mix(ir::mix_list(0, shape_.mesh), ir::bits(shape_.groups));
  for (const auto& sharding : lie) state = ir::mix(state, sharding ? sharding->hash() : 0);
  return concat(text, "; state ", state);
}

std::optional<Choice> Chooser::kept(const ir::Graph& graph, const std::vector<runtime::ShardingPtr>& lie) {
  if (!cache_.is_on() || pins_.random) return std::nullopt;
  const auto found = cache_.find(question(graph, lie));
  if (!found) return std::nullopt;
  try {
    Choice choice = followed(graph, lie, *found);
    stats().kept_plans.fetch_add(1, std::memory_order_relaxed);
    return choice;
  } catch (const Error& error) {
    if (logs(Topic::kCompile)) log(Topic::kCompile, concat("a kept plan is of no use: ", error.what()));
    return std::nullopt;
  }
}

Choice Chooser::followed(const ir::Graph& graph, const std::vector<runtime::ShardingPtr>& lie,
                         const KeptPlan& plan) {
  tell_memory(1);
  const plan::SavedPlan saved = plan::load_plan(plan.plan);
  const plan::OuterChoice& outer = saved.outer;
  const bool is_training = trains(graph);
  plan::Replay replay = plan::replay(graph, cluster_, saved, is_training);
  compile::Loop loop = compile::Loop::make(replay.step, outer.micro_batches);
  compile::Stages stages;
  if (is_training) {
    stages = stages_of(replay.step, loop, outer, replay.stage_begins, replay.schedule);
    shape_ = {outer.stages, outer.mesh};
  } else {
    stages = outer.stages == 1 ? compile::Stages::none(replay.step.graph, loop)
                               : stages_in_place(replay.step.graph, lie);
  }
  return {std::move(replay.step.graph),
          std::move(replay.turn),
          plan::Mesh::make(cluster_, outer.mesh),
          std::move(replay.assignment),
          std::move(loop),
          std::move(stages),
          plan.layout,
          plan.predicted,
          plan.plan};
}

void Chooser::keep(const ir::Graph& graph, const std::vector<runtime::ShardingPtr>& lie,
                   const KeptPlan& plan) const {
  if (cache_.is_on() && !plan.plan.empty()) cache_.keep(question(graph, lie), plan);
}

Choice Chooser::at_random(const ir::Graph& graph) const {
  std::vector<Shape> shapes;
  const int32_t devices = cluster_.device_count();
  for (int32_t groups = 1; groups <= devices; ++groups) {
    if (devices % groups != 0) continue;
    std::vector<std::vector<int32_t>> meshes;
    std::vector<int32_t> mesh;
    meshes_of(devices / groups, &mesh, &meshes);
    for (auto& one : meshes) shapes.push_back({groups, std::move(one)});
  }
  const uint64_t seed = *pins_.random;
  const Shape& shape = shapes[seed % shapes.size()];
  Choice choice;
  choice.graph = plan::prepare(graph);
  choice.frame = plan::make_frame(choice.graph);
  if (seed % 2 == 0 && capacity() > 0 && plan::sends_rows(choice.graph, choice.frame)) {
    choice.graph = plan::send_rows(choice.graph, choice.frame, capacity());
    choice.frame = plan::make_frame(choice.graph);
  }
  choice.mesh = plan::Mesh::make(cluster_, shape.mesh);
  plan::SplitCounts counts;
  choice.assignment = plan::random_assignment(choice.graph, choice.frame, choice.mesh, seed, &counts);
  choice.stages = compile::Stages::in_order(
      choice.graph, shape.groups, plan::random_groups(choice.graph.nodes().size(), shape.groups, seed),
      std::vector<compile::GroupSet>(choice.graph.inputs().size(), 0));
  choice.layout = concat("random ", seed, " on ", shape.groups > 1 ? concat(shape.groups, " stages of ") : "",
                         choice.mesh.str());
  return choice;
}

// Turns and a capacity that were asked for are a wish: a last batch that is smaller, or a step that is not
// the one that was meant, may not divide by the ones or have rows for the other.
plan::StepPlan Chooser::plan_pinned(const ir::Graph& graph) const {
  plan::Pins pins = pins_;
  if (pins.capacity.value_or(0) > 0) {
    try {
      plan::StepPlan found = plan::plan_step(graph, cluster_, pins);
      if (found.best().fits) return found;
    } catch (const Error& error) {
      if (error.phase() != Phase::kPlan) throw;
    }
    pins.capacity.reset();
  }
  if (pins.micro_batches.value_or(1) == 1) return plan::plan_step(graph, cluster_, pins);
  try {
    return plan::plan_step(graph, cluster_, pins);
  } catch (const Error& error) {
    if (error.phase() != Phase::kPlan) throw;
    pins.micro_batches.reset();
    return plan::plan_step(graph, cluster_, pins);
  }
}

Choice Chooser::planned(const ir::Graph& graph) {
  const plan::StepPlan found = plan_pinned(graph);
  const plan::Candidate& best = found.best();
  if (!best.fits) fits_nowhere(best.excess, plan::memory_parts(found, cluster_));
  shape_ = {best.outer.stages, best.outer.mesh};
  Prediction predicted;
  predicted.step_seconds = best.step_seconds;
  predicted.compute_seconds = best.spent.compute + best.spent.exposed_host;
  predicted.communicate_seconds = best.spent.communicate;
  predicted.wait_seconds = best.bubble_seconds;
  predicted.peak_bytes = best.peak_bytes;
  predicted.mesh_gap = found.mesh_gap;
  predicted.plan_seconds = found.rules_seconds + found.bound_seconds + found.search_seconds;
  predicted.is_corrected = is_corrected_;
  compile::Loop loop = compile::Loop::make(*found.step, best.outer.micro_batches);
  compile::Stages stages = stages_of(*found.step, loop, best.outer, best.stage_begins, best.schedule);
  return {found.step->graph,
          *found.turn,
          plan::Mesh::make(cluster_, best.outer.mesh),
          best.assignment,
          std::move(loop),
          std::move(stages),
          best.layout,
          std::make_shared<const Prediction>(predicted),
          plan::save_plan(*found.step, best.outer, best.assignment)};
}

// At once where that fits, else in as few turns as do.
Choice Chooser::in_place(const ir::Graph& graph, const std::vector<runtime::ShardingPtr>& lie) const {
  const plan::Step step = plan::make_step(graph);
  std::vector<int32_t> turns{1};
  if (shape_.groups == 1 && step.time.obstacle.empty()) turns = plan::turns_worth_a_try(step.time.size);
  Choice choice;
  for (const auto count : turns) {
    choice = in_place(step, count, lie);
    if (choice.assignment.fits) return choice;
  }
  plan::Terms terms;
  terms.turns = turns.back();
  fits_nowhere(choice.assignment.excess,
               plan::memory_parts(step, choice.frame, choice.mesh, terms, choice.assignment));
}

Choice Chooser::in_place(const plan::Step& step, int32_t turns,
                         const std::vector<runtime::ShardingPtr>& lie) const {
  Choice choice;
  choice.graph = step.graph;
  choice.frame = turns == 1 ? step.frame : plan::frame_of_turn(step.frame, step.time, turns);
  choice.mesh = plan::Mesh::make(cluster_, shape_.mesh);
  choice.loop = compile::Loop::make(step, turns);
  choice.stages =
      shape_.groups == 1 ? compile::Stages::none(step.graph, choice.loop) : stages_in_place(step.graph, lie);
  plan::Terms terms;
  terms.memory_bytes = static_cast<double>(cluster_.smallest_memory());
  terms.turns = turns;
  terms.steps = kSolverSteps;
  terms.branches = kSolverBranches;
  terms.pinned_inputs.resize(choice.graph.inputs().size());
  for (size_t i = 0; i < lie.size(); ++i) {
    if (lie[i]) terms.pinned_inputs[i] = placement_of(choice, choice.graph.inputs()[i], *lie[i]);
  }
  choice.assignment = plan::assign(step, choice.frame, choice.mesh, terms);
  choice.layout = concat("as it lies, on ", choice.mesh.str());
  if (shape_.groups > 1) choice.layout += concat(" of each of ", shape_.groups, " stages");
  if (turns > 1) choice.layout += concat("; ", turns, " micro-batches");
  plan::OuterChoice outer;
  outer.stages = shape_.groups;
  outer.mesh = shape_.mesh;
  outer.splits.assign(shape_.mesh.size(), plan::Axis::kAnyRole);
  outer.micro_batches = turns;
  if (choice.assignment.fits) choice.saved = plan::save_plan(step, outer, choice.assignment);
  return choice;
}

// A node runs where most of what it reads lies.
compile::Stages Chooser::stages_in_place(const ir::Graph& graph,
                                         const std::vector<runtime::ShardingPtr>& lie) const {
  const auto devices = static_cast<size_t>(cluster_.device_count() / shape_.groups);  // of a group
  std::vector<compile::GroupSet> held(graph.inputs().size(), 0);
  for (size_t i = 0; i < lie.size(); ++i) {
    if (lie[i] == nullptr) continue;
    for (int32_t group = 0; group < shape_.groups; ++group) {
      if (lie[i]->holds(static_cast<size_t>(group) * devices)) held[i] |= compile::Stages::one(group);
    }
  }
  std::vector<int32_t> of_node;
  std::vector<int64_t> bytes(static_cast<size_t>(shape_.groups));
  for (const auto& node : graph.nodes()) {
    std::fill(bytes.begin(), bytes.end(), 0);
    for (const auto operand : node.operands) {
      if (operand == ir::kNone) continue;
      const auto& value = graph.value(operand);
      for (int32_t group = 0; group < shape_.groups; ++group) {
        const bool is_there = value.producer == ir::kNone
                                  ? (held[value.index] & compile::Stages::one(group)) != 0
                                  : of_node[value.producer] == group;
        if (is_there) bytes[group] += graph.type(operand).bytes();
      }
    }
    of_node.push_back(static_cast<int32_t>(std::max_element(bytes.begin(), bytes.end()) - bytes.begin()));
  }
  return compile::Stages::in_order(graph, shape_.groups, std::move(of_node), std::move(held));
}

}  // namespace moai::engine
