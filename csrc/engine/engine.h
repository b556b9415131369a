#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine/cycle.h"
#include "engine/recipe.h"
#include "engine/settings.h"
#include "engine/trace.h"
#include "runtime/worker_group.h"

namespace moai::runtime {
class StatusPage;
}

namespace moai::engine {

class Loader;
struct Surroundings;
class Measurements;

// A value that somebody may still ask for when the step has run.
struct Held {
  ir::ValueId value;
  runtime::CellPtr cell;
};

// Owns the devices and decides how each launched trace runs on them: on one, a trace not seen before is
// interpreted (its program lowered, its memory taken piece by piece), a repeated one gets a
// program with a planned arena. On several, each trace gets a plan and a program for each device. Which
// values must be kept is judged when the run begins.
class Engine {
 public:
  // Throws Error(Phase::kConfig) on settings that no plan has.
  Engine(const Kind& kind, const Settings& settings);
  ~Engine();

  // Queues a run and returns at once.
  runtime::RunPtr launch(std::shared_ptr<Trace> trace, std::vector<runtime::CellPtr> inputs,
                         std::vector<runtime::Number> numbers, std::vector<Held> held);

  runtime::WorkerGroup& worker() { return *worker_; }
  const std::vector<std::unique_ptr<runtime::Device>>& devices() const { return devices_; }
  // Whether values that devices have are not where the host's are: see Note [Where values lie].
  bool is_apart() const { return is_apart_; }
  // For values that come from the host: the device's memory where it is the host's too, else the host's.
  runtime::MemoryPool& memory() { return is_apart_ ? host_memory_ : devices_[0]->memory; }

  // Of all devices together.
  runtime::MemoryStats memory_stats() const;
  void reset_peak_memory();
  void trim_memory();

  // The whole of a ready value: its memory, or what its parts make together; made now where it was not kept.
  // Null when it is empty. `wanted`: of what has to be brought together these bytes alone; the others are
  // undefined. Throws Error(Phase::kRun) where making it fails. Not on a worker's thread.
  runtime::BlockPtr whole(const runtime::CellPtr& cell, const runtime::Region* wanted = nullptr);

  // While on, runs are finished without being executed: what they promise is there in name, has
  // no memory and cannot be read. For recording steps that no machine at hand could run.
  void set_dry(bool dry);
  // The longest step since dry runs were last turned on, its views canonical at the offsets that it came
  // with: what a planner reads. Empty without one. Waits for nothing: synchronise first.
  ir::Graph dry_step() const;
  // The kinds and the bits of that graph's numbers, by position.
  std::pair<std::vector<ir::NumberKind>, std::vector<int64_t>> dry_numbers() const;

  // The traces that the script goes round in, by id; empty while it does not.
  std::vector<uint64_t> cycle() const;

  // Of the last planned training step.
  const Measurements& measurements() const { return *measurements_; }

  // The graph and the program that ran last, as text; empty before the first.
  std::string dump() const;

 private:
  struct Shared;  // a launch on devices that are apart
  void execute(Launch launch, runtime::Run& run);
  // The trace's program for these values, made where there is none.
  LoadedProgram& loaded(Trace& trace, const std::vector<ir::ValueId>& wanted, const runtime::Run& run);
  // Null where the launch does not fit, or leaves a recipe since it did not.
  LoadedProgram* program_for(const Launch& launch, const runtime::Run& run);
  bool take_back(const runtime::Run& run);
  LoadedProgram& leave_recipe(Launch* launch, runtime::Run& run);
  void make_again(const runtime::CellPtr& cell);
  void let_go(const std::vector<runtime::CellPtr>& old);
  void execute_apart(const Trace& trace, runtime::Run& run, LoadedProgram& program,
                     const std::vector<runtime::CellPtr>& outputs);
  void allow_again(const std::shared_ptr<Trace>& trace, runtime::Run& run,
                   std::function<void(runtime::Run&)> execute);
  Surroundings surroundings(const runtime::Run& run) const;
  void settle_moved();
  void gather(const runtime::CellPtr& cell);
  void publish(int device, int64_t busy_ns, int64_t waited_ns);
  void bring(const runtime::Block& whole, const runtime::Sharding& sharding, size_t device,
             const runtime::Block& part);
  runtime::BlockPtr on_host(const runtime::BlockPtr& block, const runtime::Region* wanted = nullptr);
  bool is_here(const runtime::Cell& cell) const;
  runtime::BlockPtr joined(const runtime::Cell& cell, const runtime::Region* wanted = nullptr);
  runtime::BlockPtr join(const std::vector<runtime::CellPtr>& parts, const runtime::Sharding& sharding,
                         const runtime::Region* wanted);

  std::vector<std::unique_ptr<runtime::Device>> devices_;
  const bool is_apart_;
  runtime::MemoryPool host_memory_;
  std::shared_ptr<runtime::Transport> transport_;  // null for one device
  std::vector<std::unique_ptr<runtime::Backend>> backends_;
  bool has_limit_;  // of memory
  const std::function<void()> before_launch_;
  std::unique_ptr<Loader> loader_;  // the workers' threads alone, one at a time
  Recipes recipes_;                 // the same
  std::mutex cells_lock_;           // guards blocks, parts and recipes of ready cells
  struct Moved {
    runtime::CellPtr cell;
    std::vector<runtime::CellPtr> parts;
    runtime::ShardingPtr sharding;
  };
  std::vector<Moved> moved_;                  // by the last run, should it have succeeded
  std::vector<runtime::CellPtr> made_again_;  // the same
  std::atomic<bool> dry_{false};
  const std::unique_ptr<Measurements> measurements_;
  std::unique_ptr<runtime::StatusPage> status_;  // null where there is none
  mutable std::mutex last_lock_;                 // guards the next three
  CycleDetector cycles_;
  std::shared_ptr<const compile::Program> last_;
  struct DryStep {
    std::shared_ptr<Trace> trace;
    std::vector<int64_t> numbers;
    std::vector<ir::ValueId> held;
  } dry_step_;
  std::unique_ptr<runtime::WorkerGroup> worker_;  // last: its thread uses the rest
};

// The process's engine; made at first use of what `configure` was given last.
// Throws Error(Phase::kRun) in a process forked from one that had an engine: its thread is not here.
Engine& engine();
bool engine_exists();
// `name`: what Settings::kind calls it.
void configure(Kind kind, const std::string& name = "cpu");
void configure(Settings settings);
// Finishes what is queued and ends the worker's thread; a later use starts another.
void shut_down();

}  // namespace moai::engine
