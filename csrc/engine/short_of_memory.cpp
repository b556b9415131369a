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

// What a program is for: all that was held when the step was launched, so that none is made anew when a
// script lets go a little sooner or later. What runs once and is forgotten makes what is still held.
std::vector<ir::ValueId> wanted(const Launch& launch, const runtime::Run& run, bool is_kept) {
  std::vector<ir::ValueId> values;
  for (size_t i = 0; i < launch.held.size(); ++i) {
    if (is_kept || run.outputs[i].use_count() > 1) values.push_back(launch.held[i]);
  }
  std::sort(values.begin(), values.end());
  return values;
}

}  // namespace

LoadedProgram* Engine::program_for(const Launch& launch, const runtime::Run& run) {
  if (launch.trace->keeping_inputs != nullptr) return nullptr;
  try {
    const Surroundings found = surroundings(run);
    const bool is_kept = devices_.size() > 1;
    LoadedProgram& program =
        loader_->program_for(*launch.trace, wanted(launch, run, is_kept), run.numbers, found);
    if (!program.fits) return nullptr;
    if (const auto correction = measurements_->correction(program.predicted))
      loader_->reconsider(*launch.trace, program, run.numbers, found, *correction);
    if (has_limit_ && devices_.size() > 1 && !trains(launch.trace->graph)) recipes_.note(launch, run);
    return &program;
  } catch (const OutOfMemory&) {
    return nullptr;
  }
}

// A first half that does not fit whole: see Note [Values that are made again].
LoadedProgram& Engine::leave_recipe(Launch* launch, runtime::Run& run) {
  auto& twin = launch->trace->keeping_inputs;
  const auto kept = Recipes::kept(*launch->trace, launch->held);
  const Surroundings found = surroundings(run);
  const bool leaves = !trains(launch->trace->graph) && kept.size() < launch->held.size();
  if (twin == nullptr && leaves) twin = Recipes::keeping_inputs(*launch->trace);
  if (twin == nullptr) {
    // What comes closest, or why there is none.
    return loader_->program_for(*launch->trace, wanted(*launch, run, devices_.size() > 1), run.numbers,
                                found);
  }
  LoadedProgram& program = loader_->program_for(*twin, kept, run.numbers, found);
  recipes_.leave(*launch, run, run.inputs, kept);
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
    LoadedProgram& program = loader_->program_for(trace, {made->first}, r.numbers, surroundings(r));
    execute_on_several(trace, r, program, {cell});
  };
  worker_->submit(run);
  const bool succeeded = worker_->wait(*run);
  const std::lock_guard<std::mutex> guard(cells_lock_);
  if (succeeded) {
    cell->recipe = nullptr;
    return;
  }
  cell->parts.clear();
  throw Error(Phase::kRun, "a tensor's value is lost: what makes it again failed")
      .hint("would work: a smaller batch, or more memory");
}

}  // namespace moai::engine
