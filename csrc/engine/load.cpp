#include "engine/load.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>
#include <unordered_map>

#include "compile/chunk/chunk_losses.h"
#include "compile/chunk/slice_hidden.h"
#include "compile/fuse/groups.h"
#include "compile/fuse/lists.h"
#include "compile/local/buckets.h"
#include "compile/waits.h"
#include "engine/log.h"
#include "engine/stats.h"
#include "ir/arg.h"
#include "ir/error.h"
#include "ir/passes.h"
#include "ir/view_nodes.h"
#include "ops/expert_rows.h"
#include "plan/plan_file.h"
#include "runtime/profiler.h"

namespace moai::engine {

namespace {

using Clock = std::chrono::steady_clock;

// Both sorted.
bool includes(const std::vector<ir::ValueId>& all, const std::vector<ir::ValueId>& some) {
  return std::includes(all.begin(), all.end(), some.begin(), some.end());
}

bool holds_for(const LoadedProgram& program, const std::vector<runtime::Number>& numbers) {
  return std::all_of(program.offsets.begin(), program.offsets.end(),
                     [&](const auto& offset) { return numbers[offset.first].i == offset.second; });
}

// An offset that is not what it was for another program is one that varies.
void note_varying_offsets(Trace& trace, const std::vector<runtime::Number>& numbers) {
  trace.varying_offsets.resize(numbers.size(), false);
  for (const auto& other : trace.programs) {
    for (const auto& [position, value] : other.offsets) {
      if (numbers[position].i != value) trace.varying_offsets[position] = true;
    }
  }
}

std::vector<int64_t> integers(const std::vector<runtime::Number>& numbers) {
  std::vector<int64_t> values;
  values.reserve(numbers.size());
  for (const auto number : numbers) values.push_back(number.i);
  return values;
}

// Positions of the numbers that are offsets of views or of updates.
std::vector<int32_t> offsets_in(const ir::Graph& graph) {
  std::vector<int32_t> found;
  for (const auto& node : graph.nodes()) {
    const int32_t arg = ir::offset_arg(node);
    const auto* number = arg == ir::kNone ? nullptr : std::get_if<ir::NumberRef>(&node.args[arg]);
    if (number != nullptr) found.push_back(number->index);
  }
  std::sort(found.begin(), found.end());
  found.erase(std::unique(found.begin(), found.end()), found.end());
  return found;
}

// The most that a program takes of its device: its arena, what it takes in and what it gives out; what lies
// on the host is none of it.
int64_t bytes_of(const compile::Program& program) {
  int64_t bytes = runtime::MemoryPool::size_of(program.arena_bytes);
  for (const auto& buffer : program.buffers) {
    if (buffer.home == compile::Buffer::Home::kInput || buffer.home == compile::Buffer::Home::kOutput)
      bytes += runtime::MemoryPool::size_of(buffer.bytes);
  }
  return bytes;
}

// Of the fullest device.
int64_t bytes_of(const std::vector<std::shared_ptr<const compile::Program>>& programs) {
  int64_t most = 0;
  for (const auto& program : programs) most = std::max(most, bytes_of(*program));
  return most;
}

// The same with inputs that lie otherwise than a program wants them, which stay until it has run.
int64_t bytes_taken(const LoadedProgram& program, const Surroundings& surroundings) {
  const auto& lie = surroundings.lie;
  int64_t most = 0;
  for (size_t d = 0; d < program.programs.size(); ++d) {
    int64_t bytes = 0;
    for (size_t i = 0; i < lie.size(); ++i) {
      if (lie[i] != nullptr && *lie[i] != *program.inputs_lie[i])
        bytes += runtime::MemoryPool::size_of(lie[i]->part_bytes(d));
    }
    most = std::max(most, bytes);
  }
  return bytes_of(program.programs) + most;
}

uint64_t next_id() {
  static std::atomic<uint64_t> next{1};
  return next.fetch_add(1);
}

void count_chunks(const Trace& trace, const compile::ChunkReport& report) {
  stats().losses_in_chunks.fetch_add(static_cast<int64_t>(report.losses.size()), std::memory_order_relaxed);
  if (!logs(Topic::kCompile)) return;
  if (!report.losses.empty())
    log(Topic::kCompile, concat("chunk trace ", trace.id, ": ", report.losses.size(), " losses in chunks"));
  for (const auto& why_not : report.why_not)
    log(Topic::kCompile, concat("chunk trace ", trace.id, ": a loss in one piece, since ", why_not));
}

void count_compile(bool resized) {
  (resized ? stats().resizes : stats().compiles).fetch_add(1, std::memory_order_relaxed);
}

}  // namespace

ir::Graph simplified(ir::Graph graph, const std::vector<ir::ValueId>& wanted) {
  graph.set_outputs(wanted);
  graph = ir::eliminate_dead_code(graph);
  graph = ir::remove_needless_copies(graph);
  return ir::merge_common_subexpressions(graph);
}

Loader::Loader(const Settings& settings, bool is_apart,
               std::vector<std::unique_ptr<runtime::Backend>>& backends)
    : id_(next_id()),
      backends_(backends),
      is_apart_(is_apart),
      memory_bytes_(settings.memory_bytes),
      chunk_bytes_(settings.chunk_bytes) {
  // One device has nothing to share, but may be asked for turns, or for what is computed again or kept on the
  // host.
  const bool is_asked = !settings.plan.empty() && settings.plan != "fastest";
  if (settings.devices > 1 || is_asked) chooser_ = std::make_unique<Chooser>(settings);
}

LoadedProgram* Loader::find(Trace& trace, const std::vector<ir::ValueId>& wanted,
                            const std::vector<runtime::Number>& numbers) const {
  if (trace.loader != id_) {  // another engine's, which is gone
    trace.programs.clear();
    trace.varying_offsets.clear();
    trace.runs = 0;
    trace.loader = id_;
  }
  LoadedProgram* found = nullptr;
  for (auto& candidate : trace.programs) {
    if (!includes(candidate.outputs, wanted) || !holds_for(candidate, numbers)) continue;
    if (found == nullptr || candidate.outputs.size() < found->outputs.size()) found = &candidate;
  }
  return found;
}

LoadedProgram& Loader::make(Trace& trace, const std::vector<ir::ValueId>& wanted,
                            const std::vector<runtime::Number>& numbers, const Surroundings& surroundings) {
  const auto start = Clock::now();
  trace.programs.push_back(chooser_ ? on_several(trace, wanted, numbers, surroundings)
                                    : on_one(trace, wanted, numbers));
  stats().compile_ns.fetch_add(ns_since(start), std::memory_order_relaxed);
  return trace.programs.back();
}

// The graph, which has strided views, with its losses in chunks. `offsets`: what it holds for.
ir::Graph Loader::in_chunks(Trace& trace, ir::Graph graph, const std::vector<runtime::Number>& numbers,
                            std::vector<std::pair<int32_t, int64_t>>* offsets) const {
  if (chunk_bytes_ < 0 || !compile::has_large_loss(graph, chunk_bytes_)) return graph;
  note_varying_offsets(trace, numbers);
  compile::ChunkReport report;
  ir::Graph chunked = compile::chunk_losses(
      compile::slice_hidden(graph, chunk_bytes_, integers(numbers), trace.varying_offsets, offsets),
      chunk_bytes_, &report);
  count_chunks(trace, report);
  return chunked;
}

LoadedProgram Loader::on_one(Trace& trace, const std::vector<ir::ValueId>& wanted,
                             const std::vector<runtime::Number>& numbers) {
  // A known structure in other sizes is planned at once: its plan is only re-sized. So is everything where
  // taking memory piece by piece would be slow.
  const bool plan = is_apart_ || trace.runs > 0 || planned_structures_.count(trace.structure) > 0;
  const runtime::Span span(runtime::Profiler::Lane::kDevice, plan ? "moai plan and lower" : "moai lower");
  const auto start = Clock::now();
  LoadedProgram loaded;
  ir::Graph graph = in_chunks(trace, simplified(trace.graph, wanted), numbers, &loaded.offsets);
  if (backends_[0]->fuses()) graph = compile::fuse_groups(compile::fuse_lists(graph));
  auto program = std::make_shared<compile::Program>(compile::lower(std::move(graph), {trace.donated}));
  if (plan) {
    compile::plan_memory(*program);
    const bool known = !planned_structures_.insert(trace.structure).second;
    count_compile(known && trace.programs.empty());
    if (logs(Topic::kCompile)) {
      log(Topic::kCompile, concat(known ? "resize" : "compile", " trace ", trace.id, ": ",
                                  program->instructions.size(), " instructions, arena ", program->arena_bytes,
                                  " bytes, ", wanted.size(), " outputs, ", ns_since(start) / 1000, " us"));
    }
  }
  loaded.outputs = wanted;
  if (is_apart_) {
    const auto whole = [&](ir::ValueId value) {
      return std::make_shared<const runtime::Sharding>(
          runtime::Sharding::replicated(trace.graph.type(value).bytes(), 1));
    };
    for (const auto input : trace.graph.inputs()) loaded.inputs_lie.push_back(whole(input));
    for (const auto output : wanted) loaded.outputs_lie.push_back(whole(output));
  }
  loaded.programs.push_back(program);
  loaded.executables.push_back(backends_[0]->load(program, trace.lines));
  return loaded;
}

// The step as a planner reads it. `offsets`: what it holds for; views whose offset varies stay as they are.
ir::Graph Loader::canonical(Trace& trace, const std::vector<ir::ValueId>& wanted,
                            const std::vector<runtime::Number>& numbers,
                            std::vector<std::pair<int32_t, int64_t>>* offsets) {
  note_varying_offsets(trace, numbers);
  const std::vector<int64_t> values = integers(numbers);
  const ir::Graph graph = simplified(trace.graph, wanted);
  for (const auto position : offsets_in(graph)) {
    if (!trace.varying_offsets[position]) offsets->emplace_back(position, values[position]);
  }
  return ir::canonicalise_views(ir::fixed_offsets(graph, values, trace.varying_offsets));
}

// The devices' graphs with strided views, their losses in chunks.
compile::DeviceGraphs Loader::in_chunks(const Trace& trace, const Choice& choice,
                                        const compile::DeviceGraphs& graphs) const {
  std::unordered_map<const ir::Graph*, std::shared_ptr<const ir::Graph>> known;
  compile::DeviceGraphs strided;
  for (const auto& graph : graphs) {
    auto& made = known[graph.get()];
    if (made == nullptr) {
      ir::Graph with_strides = ir::strided_views(*graph);
      // Offsets that are numbers vary, or would be fixed by now.
      if (chunk_bytes_ >= 0 && compile::has_large_loss(with_strides, chunk_bytes_))
        with_strides = compile::slice_hidden(with_strides, chunk_bytes_, {}, {}, nullptr);
      made = std::make_shared<const ir::Graph>(std::move(with_strides));
    }
    strided.push_back(made);
  }
  if (chunk_bytes_ < 0) return strided;
  compile::ChunkReport report;
  auto chunked = compile::chunk_losses(strided, compile::mesh_of(choice.mesh, choice.stages),
                                       choice.stages.groups, chunk_bytes_, &report);
  count_chunks(trace, report);
  return chunked;
}

// A program for each device, not made ready yet.
LoadedProgram Loader::lowered(const Trace& trace, const Choice& choice) const {
  LoadedProgram loaded;
  const auto local = compile::partition(choice.graph, choice.frame, choice.mesh, choice.assignment,
                                        choice.loop, choice.stages);
  const auto mesh = compile::mesh_of(choice.mesh, choice.stages);
  const auto lies = [&](ir::ValueId value, const plan::Placement& placement) {
    return std::make_shared<const runtime::Sharding>(sharding_of(choice, value, placement));
  };
  for (size_t i = 0; i < choice.graph.inputs().size(); ++i)
    loaded.inputs_lie.push_back(lies(choice.graph.inputs()[i], choice.assignment.inputs[i]));
  for (size_t o = 0; o < local.outputs.size(); ++o)
    loaded.outputs_lie.push_back(lies(choice.graph.outputs()[o], local.outputs[o]));
  loaded.layout = choice.layout;
  loaded.plan = choice.saved;
  const auto& nodes = choice.graph.nodes();
  const bool sends = std::any_of(nodes.begin(), nodes.end(),
                                 [](const ir::Node& node) { return node.op == ops::expert_rows().assign; });
  if (sends) loaded.capacity = chooser_->capacity();
  std::unordered_map<const ir::Graph*, std::shared_ptr<const compile::Program>> known;
  for (const auto& graph : compile::merge_into_buckets(in_chunks(trace, choice, local.graphs), mesh)) {
    auto& program = known[graph.get()];
    if (program == nullptr) {
      ir::Graph local_graph = *graph;
      if (backends_.size() == 1 && backends_[0]->fuses())
        local_graph = compile::fuse_groups(compile::fuse_lists(std::move(local_graph)));
      auto made = std::make_shared<compile::Program>(compile::lower(std::move(local_graph), {trace.donated}));
      made->mesh = mesh;
      compile::place_waits(*made);
      compile::plan_memory(*made);
      program = std::move(made);
    }
    loaded.programs.push_back(program);
  }
  if (logs(Topic::kCompile)) {
    uint64_t hash = 0;
    for (const auto& graph : local.graphs) hash = ir::mix_text(hash, ir::print(*graph));
    log(Topic::kCompile, concat("lower trace ", trace.id, ": programs ", hash, ", split: ",
                                plan::split_words(choice.graph, choice.frame, choice.assignment)));
  }
  if (choice.predicted) {
    // What a planner estimates, a program knows.
    auto predicted = std::make_shared<Prediction>(*choice.predicted);
    predicted->peak_bytes = static_cast<double>(bytes_of(loaded.programs));
    loaded.predicted = std::move(predicted);
  }
  return loaded;
}

LoadedProgram Loader::fitting(const Trace& trace, const ir::Graph& graph, const Surroundings& surroundings) {
  if (auto kept = from_cache(trace, graph, surroundings)) return std::move(*kept);
  LoadedProgram found = searched(trace, graph, surroundings);
  if (found.fits) chooser_->keep(graph, surroundings.lie, {found.plan, found.layout, found.predicted});
  return found;
}

// A planner's bytes are an estimate, a program's are not: where the programs of a plan do not fit, it is
// asked again with as much less memory as they took too much. What comes closest is kept.
LoadedProgram Loader::searched(const Trace& trace, const ir::Graph& graph, const Surroundings& surroundings) {
  constexpr int kTries = 4;
  const int64_t room = memory_bytes_ - surroundings.other_bytes;
  double share = 1;  // of the memory, that the planner is told of
  if (memory_bytes_ > 0)
    share = std::max(0.0, static_cast<double>(room) / static_cast<double>(memory_bytes_));
  LoadedProgram best;
  int64_t least = std::numeric_limits<int64_t>::max();
  for (int tries = 0; tries < kTries; ++tries) {
    LoadedProgram loaded;
    try {
      loaded = lowered(trace, chooser_->choose(graph, surroundings.lie, share));
    } catch (const OutOfMemory&) {
      if (tries == 0) throw;
      break;
    }
    const int64_t most = bytes_taken(loaded, surroundings);
    loaded.fits = fits(most, surroundings);
    if (most < least) {
      least = most;
      best = std::move(loaded);
    }
    if (fits(most, surroundings)) break;
    share *= 0.97 * static_cast<double>(room) / static_cast<double>(most);
  }
  return best;
}

// The programs of a plan that an earlier process found to fit.
std::optional<LoadedProgram> Loader::from_cache(const Trace& trace, const ir::Graph& graph,
                                                const Surroundings& surroundings) {
  const auto choice = chooser_->kept(graph, surroundings.lie);
  if (!choice) return std::nullopt;
  try {
    LoadedProgram loaded = lowered(trace, *choice);
    if (!fits(bytes_taken(loaded, surroundings), surroundings)) return std::nullopt;
    return loaded;
  } catch (const Error& error) {
    if (logs(Topic::kCompile)) log(Topic::kCompile, concat("a kept plan is of no use: ", error.what()));
    return std::nullopt;
  }
}

bool Loader::fits(int64_t bytes, const Surroundings& surroundings) const {
  return memory_bytes_ < 0 || bytes <= memory_bytes_ - surroundings.other_bytes;
}

void Loader::make_ready(const Trace& trace, LoadedProgram* loaded) const {
  for (size_t d = 0; d < backends_.size(); ++d)
    loaded->executables.push_back(backends_[d]->load(loaded->programs[d], trace.lines));
}

void Loader::widen(Trace& trace) {
  auto& programs = trace.programs;
  const auto sends = std::stable_partition(programs.begin(), programs.end(),
                                           [](const LoadedProgram& one) { return one.capacity == 0; });
  // Another trace may have asked for more since this one was planned.
  const bool has_all = std::any_of(
      sends, programs.end(), [&](const LoadedProgram& one) { return one.capacity >= chooser_->capacity(); });
  if (has_all) chooser_->widen();
  programs.erase(sends, programs.end());
}

// Note [When a plan is reconsidered]
// A plan is chosen by figures of the machine. Where its steps take other times than predicted by more than a
// fifth, the figures are corrected by what was measured, and it is chosen once more by those; the answer
// replaces the plan that was kept for later processes, which begin with it and ask no more. State moves to
// where the new plan wants it on its first run. Nothing that was asked for (a pin, a saved plan) is
// reconsidered.
void Loader::reconsider(Trace& trace, LoadedProgram& program, const std::vector<runtime::Number>& numbers,
                        const Surroundings& surroundings, const Correction& correction) {
  // What another plan must promise to be worth moving the state.
  constexpr double kWorth = 0.95;
  if (!chooser_->is_free()) return;
  const auto start = Clock::now();
  const Prediction& old = *program.predicted;
  Prediction corrected = old;
  corrected.compute_seconds *= correction.compute;
  corrected.communicate_seconds *= correction.communicate;
  corrected.wait_seconds *= correction.compute;
  corrected.step_seconds =
      corrected.compute_seconds + corrected.wait_seconds +
      (old.step_seconds - old.compute_seconds - old.wait_seconds) * correction.communicate;
  corrected.is_corrected = true;
  const auto shape = chooser_->shape();
  chooser_->correct(correction);
  std::vector<std::pair<int32_t, int64_t>> offsets;
  const ir::Graph graph = canonical(trace, program.outputs, numbers, &offsets);
  LoadedProgram other;
  try {
    other = searched(trace, graph, surroundings);
  } catch (const OutOfMemory&) {
    other.fits = false;  // by other figures; the plan that runs does fit
  }
  stats().reconsidered.fetch_add(1, std::memory_order_relaxed);
  const bool is_better = other.fits && other.plan != program.plan && other.predicted != nullptr &&
                         other.predicted->step_seconds < kWorth * corrected.step_seconds;
  if (is_better) {
    other.outputs = program.outputs;
    other.offsets = std::move(offsets);
    make_ready(trace, &other);
    program = std::move(other);
    // What the other traces' programs expect of the state is the old plan's.
    trace.loader = id_ = next_id();
  } else {
    program.predicted = std::make_shared<const Prediction>(corrected);
    chooser_->set_shape(shape);
  }
  if (program.capacity == 0 || program.capacity == chooser_->capacity())
    chooser_->keep(graph, surroundings.lie, {program.plan, program.layout, program.predicted});
  if (logs(Topic::kCompile)) {
    log(Topic::kCompile,
        concat("reconsider trace ", trace.id, ": computing took ", correction.compute, " and communication ",
               correction.communicate, " times what was predicted; ", is_better ? "now " : "still ",
               program.layout, ", ", ns_since(start) / 1000, " us"));
  }
}

LoadedProgram Loader::on_several(Trace& trace, const std::vector<ir::ValueId>& wanted,
                                 const std::vector<runtime::Number>& numbers,
                                 const Surroundings& surroundings) {
  const runtime::Span span(runtime::Profiler::Lane::kDevice, "moai plan and lower");
  const auto start = Clock::now();
  std::vector<std::pair<int32_t, int64_t>> offsets;
  const ir::Graph graph = canonical(trace, wanted, numbers, &offsets);
  LoadedProgram loaded = fitting(trace, graph, surroundings);
  loaded.outputs = wanted;
  loaded.offsets = std::move(offsets);
  make_ready(trace, &loaded);
  count_compile(!planned_structures_.insert(trace.structure).second && trace.programs.empty());
  if (logs(Topic::kCompile)) {
    log(Topic::kCompile, concat("compile trace ", trace.id, " for ", backends_.size(), " devices (",
                                loaded.layout, "): ", loaded.programs[0]->instructions.size(),
                                " instructions, arena ", loaded.programs[0]->arena_bytes, " bytes, ",
                                wanted.size(), " outputs, ", ns_since(start) / 1000, " us"));
  }
  return loaded;
}

}  // namespace moai::engine
