// What a launch runs where memory is short: see Note [Values that are made again].

#include <algorithm>

#include "engine/choose.h"
#include "engine/engine.h"
#include "engine/load.h"
#include "engine/measurements.h"
#include "ir/error.h"

namespace moai::engine {

using runtime::Cell;
using runtime::CellPtr;

namespace {

// What a program is for. On several devices, where one takes a plan, all that was held when the step was
// launched: none is made anew when a script lets go a little sooner or later. On one what is still held.
std::vector<ir::ValueId> wanted(const Launch& launch, const runtime::Run& run, bool has_plan) {
  std::vector<ir::ValueId> values;
  for (size_t i = 0; i < launch.held.size(); ++i) {
    if (has_plan || run.outputs[i].use_count() > 1) values.push_back(launch.held[i]);
  }
  std::sort(values.begin(), values.end());
  return values;
}

}  // namespace

LoadedProgram& Engine::loaded(Trace& trace, const std::vector<ir::ValueId>& wanted, const runtime::Run& run) {
  if (LoadedProgram* known = loader_->find(trace, wanted, run.numbers)) return *known;
  return loader_->make(trace, wanted, run.numbers, surroundings(run));
}

LoadedProgram* Engine::program_for(const Launch& launch, const runtime::Run& run) {
  Trace& trace = *launch.trace;
  if (trace.keeping_inputs != nullptr) return nullptr;
  const bool several = devices_.size() > 1;
  try {
    LoadedProgram& program = loaded(trace, wanted(launch, run, several), run);
    if (!program.fits) return nullptr;
    if (const auto correction = measurements_->correction(program.predicted))
      loader_->reconsider(trace, program, run.numbers, surroundings(run), *correction);
    if (has_limit_ && several && !trains(trace.graph)) recipes_.note(launch, run);
    return &program;
  } catch (const OutOfMemory&) {
    return nullptr;
  }
}

// A first half that does not fit whole: see Note [Values that are made again].
LoadedProgram& Engine::leave_recipe(Launch* launch, runtime::Run& run) {
  auto& twin = launch->trace->keeping_inputs;
  const auto kept = Recipes::kept(*launch->trace, launch->held);
  const bool leaves = !trains(launch->trace->graph) && kept.size() < launch->held.size();
  if (twin == nullptr && leaves) twin = Recipes::keeping_inputs(*launch->trace);
  // What comes closest, or why there is none.
  if (twin == nullptr) return loaded(*launch->trace, wanted(*launch, run, devices_.size() > 1), run);
  LoadedProgram& program = loaded(*twin, kept, run);
  recipes_.leave(*launch, run, kept);
  launch->trace = twin;
  return program;
}

// Runs what makes a value that was not kept, behind all that is queued; where that is under way, waits for
// it.
void Engine::make_again(const CellPtr& cell) {
  auto run = std::make_shared<runtime::Run>();
  run->outputs = {cell};
  run->execute = [this, cell](runtime::Run& r) {
    settle_moved();
    const auto recipe = std::static_pointer_cast<Recipe>(cell->recipe);
    if (recipe == nullptr) return;
    const auto made = std::find_if(recipe->cells.begin(), recipe->cells.end(),
                                   [&](const auto& one) { return one.second.lock() == cell; });
    r.inputs = recipe->inputs;
    r.numbers = recipe->numbers;
    Trace& trace = *recipe->trace->keeping_inputs;
    LoadedProgram& program = loaded(trace, {made->first}, r);
    if (program.capacity > 0) allow_again(recipe->trace->keeping_inputs, r, r.execute);
    execute_apart(trace, r, program, {cell});
    made_again_.push_back(cell);
  };
  worker_->submit(run);
  if (worker_->wait(*run)) return;
  throw Error(Phase::kRun, "a tensor's value is lost: what makes it again failed")
      .hint("would work: a smaller batch, or more memory");
}

}  // namespace moai::engine
