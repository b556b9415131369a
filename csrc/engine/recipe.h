#pragma once

#include <map>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "engine/trace.h"
#include "runtime/run.h"

namespace moai::engine {

// Note [Values that are made again]
// A loss that is read before backward cuts a step in two, and what forward leaves for backward is held in
// between: all of it, for the whole batch. Where that does not fit, the first half runs for what the script
// reads alone, and leaves the rest as a recipe: its graph and its inputs. Whoever reads one of those values
// is run together with the recipe's graph, as one step, whose planner is free to go through the batch in
// turns. So is a run that writes over a recipe's inputs, for the values that are still held. A script that
// asks for a value itself has it made on the spot.
//
// The price is that the second half computes the first once more, which is why it is not the rule.
struct Recipe final : runtime::Recipe {
  std::shared_ptr<Trace> trace;
  std::vector<runtime::CellPtr> inputs;
  std::vector<runtime::Number> numbers;
  std::vector<std::pair<ir::ValueId, std::weak_ptr<runtime::Cell>>> cells;  // which it makes
};

// What a run executes.
struct Launch {
  std::shared_ptr<Trace> trace;
  std::vector<ir::ValueId> held;  // by output of the run
};

// The recipes whose values are held. Used by one thread at a time.
class Recipes {
 public:
  // Of what a first half may leave behind: the single numbers, and what replaces one of its inputs.
  static std::vector<ir::ValueId> kept(const Trace& trace, const std::vector<ir::ValueId>& held);
  // The same trace, which leaves its inputs as they were.
  static std::shared_ptr<Trace> keeping_inputs(const Trace& trace);

  // Gives the run's outputs that `kept` has not to a recipe.
  void leave(const Launch& launch, const runtime::Run& run, const std::vector<ir::ValueId>& kept);
  // Joins to a run what it reads of recipes, and those whose inputs it replaces.
  void join(Launch* launch, runtime::Run* run);

  // Remembers a first half that was run whole, for `take_back`.
  void note(const Launch& launch, const runtime::Run& run);
  // Whether the run reads what the last noted one left. Then that is a recipe from now on, and its memory
  // free: call it under the lock of cells.
  bool take_back(const runtime::Run& run);

 private:
  // How a recipe and a run hang together: by input of the run, the recipe's value that it is, and by input of
  // the recipe, the run's that it is; kNone where it is none.
  struct Wiring {
    std::vector<ir::ValueId> values;
    std::vector<int32_t> inputs;
  };
  // Two traces as one: what the second reads on its own, then what the first does.
  struct Joined {
    std::shared_ptr<Trace> trace;
    std::vector<ir::ValueId> of_first, of_second;  // by value of each: what it is in the joined one
  };
  using Key = std::tuple<uint64_t, uint64_t, std::vector<ir::ValueId>, std::vector<int32_t>>;

  static Wiring wire(const std::shared_ptr<Recipe>& recipe, const runtime::Run& run);
  static Joined make_joined(const Trace& first, const Trace& second, const Wiring& wiring);
  static std::shared_ptr<Recipe> recipe_of(const Launch& launch, const runtime::Run& run,
                                           const std::vector<ir::ValueId>& kept);
  void attach(const std::shared_ptr<Recipe>& recipe);
  bool must_join(const Recipe& recipe, const Trace& trace, const runtime::Run& run) const;
  void join(const std::shared_ptr<Recipe>& recipe, Launch* launch, runtime::Run* run);

  std::vector<std::weak_ptr<Recipe>> live_;
  std::map<Key, Joined> joined_;  // by traces and wiring
  std::shared_ptr<Recipe> last_;
};

}  // namespace moai::engine
