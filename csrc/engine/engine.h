#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "engine/cycle.h"
#include "engine/trace.h"
#include "runtime/worker_group.h"

namespace moai::engine {

// A value that somebody may still ask for when the step has run.
struct Held {
  ir::ValueId value;
  runtime::CellPtr cell;
};

// Owns the device and decides how each launched trace runs on it: a trace not seen before is
// interpreted (its program lowered, its memory taken piece by piece), a repeated one gets a
// program with a planned arena. Which values must be kept is judged when the run begins.
class Engine {
 public:
  // `backend` computes; it outlives the engine's worker.
  explicit Engine(std::unique_ptr<runtime::Backend> backend);
  ~Engine();

  // Queues a run and returns at once.
  runtime::RunPtr launch(std::shared_ptr<Trace> trace, std::vector<runtime::CellPtr> inputs,
                         std::vector<runtime::Number> numbers, std::vector<Held> held);

  runtime::WorkerGroup& worker() { return *worker_; }
  runtime::MemoryPool& memory() { return backend_->memory(); }

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

  // The graph and the program that ran last, as text; empty before the first.
  std::string dump() const;

 private:
  void execute(Trace& trace, runtime::Run& run, const std::vector<ir::ValueId>& held);
  LoadedProgram& program_for(Trace& trace, const std::vector<ir::ValueId>& wanted);
  LoadedProgram build(Trace& trace, const std::vector<ir::ValueId>& wanted, bool plan);

  std::unique_ptr<runtime::Backend> backend_;
  std::atomic<bool> dry_{false};
  std::set<uint64_t> planned_structures_;  // the worker's thread alone
  mutable std::mutex last_lock_;           // guards the next three
  CycleDetector cycles_;
  std::shared_ptr<const compile::Program> last_;
  struct DryStep {
    std::shared_ptr<Trace> trace;
    std::vector<int64_t> numbers;
    std::vector<ir::ValueId> held;
  } dry_step_;
  std::unique_ptr<runtime::WorkerGroup> worker_;  // last: its thread uses the rest
};

// The process's engine; made at first use with what `set_backend_factory` was given.
// Throws Error(Phase::kRun) in a process forked from one that had an engine: its thread is not here.
Engine& engine();
bool engine_exists();
void set_backend_factory(std::unique_ptr<runtime::Backend> (*factory)());
// Finishes what is queued and ends the worker's thread; a later use starts another.
void shut_down();

}  // namespace moai::engine
