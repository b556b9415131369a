#include "engine/recipe.h"

#include <algorithm>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <variant>

#include "engine/choose.h"
#include "plan/roles.h"

namespace moai::engine {

namespace {

using ir::ValueId;
using runtime::Cell;
using runtime::CellPtr;

bool is_number(const ir::Graph& graph, ValueId value) { return graph.type(value).numel() == 1; }

// Refers to numbers that stand `by` positions further on.
void shift_numbers(std::vector<ir::Arg>* args, int32_t by) {
  for (auto& arg : *args) {
    if (auto* number = std::get_if<ir::NumberRef>(&arg)) number->index += by;
    if (auto* scalar = std::get_if<ir::HostScalarArg>(&arg)) scalar->number += by;
    if (auto* list = std::get_if<ir::NumberListRef>(&arg)) {
      for (auto& number : list->indices) number += by;
    }
  }
}

// Appends a graph's nodes, operands renamed by `map`, to which it adds their results.
void append(const ir::Graph& from, int32_t first_number, int32_t first_line, ir::Graph* to,
            std::vector<ValueId>* map) {
  for (const auto& old : from.nodes()) {
    ir::Node node = old;
    node.results.clear();
    for (auto& operand : node.operands) {
      if (operand != ir::kNone) operand = (*map)[operand];
    }
    shift_numbers(&node.args, first_number);
    if (node.origin != ir::kNone) node.origin += first_line;
    std::vector<ir::Type> types;
    for (const auto result : old.results) types.push_back(from.type(result));
    const auto id = to->add_node(std::move(node), std::move(types));
    for (size_t r = 0; r < old.results.size(); ++r) (*map)[old.results[r]] = to->node(id).results[r];
  }
}

}  // namespace

std::vector<ValueId> Recipes::kept(const Trace& trace, const std::vector<ValueId>& held) {
  std::vector<ValueId> kept;
  for (const auto value : held) {
    if (is_number(trace.graph, value) || plan::updated_input(trace.graph, value) != ir::kNone)
      kept.push_back(value);
  }
  std::sort(kept.begin(), kept.end());
  return kept;
}

std::shared_ptr<Trace> Recipes::keeping_inputs(const Trace& trace) {
  auto twin = std::make_shared<Trace>();
  twin->id = trace.id;
  twin->graph = trace.graph;
  twin->donated.assign(trace.donated.size(), false);
  twin->lines = trace.lines;
  twin->structure = trace.structure;
  return twin;
}

std::shared_ptr<Recipe> Recipes::recipe_of(const Launch& launch, const runtime::Run& run,
                                           const std::vector<ValueId>& kept) {
  auto recipe = std::make_shared<Recipe>();
  recipe->trace = launch.trace;
  recipe->inputs = run.inputs;
  recipe->numbers = run.numbers;
  for (size_t i = 0; i < launch.held.size(); ++i) {
    const ValueId value = launch.held[i];
    const bool is_kept =
        is_number(launch.trace->graph, value) || std::binary_search(kept.begin(), kept.end(), value);
    if (!is_kept) recipe->cells.emplace_back(value, run.outputs[i]);
  }
  return recipe;
}

void Recipes::attach(const std::shared_ptr<Recipe>& recipe) {
  for (const auto& [value, weak] : recipe->cells) {
    const CellPtr cell = weak.lock();
    if (cell == nullptr) continue;
    cell->recipe = recipe;
    cell->parts.clear();
    cell->sharding = nullptr;
  }
  live_.push_back(recipe);
}

void Recipes::leave(const Launch& launch, const runtime::Run& run, const std::vector<ValueId>& kept) {
  attach(recipe_of(launch, run, kept));
}

void Recipes::note(const Launch& launch, const runtime::Run& run) {
  const auto& donated = launch.trace->donated;
  const bool replaces = std::find(donated.begin(), donated.end(), true) != donated.end();
  last_ = replaces ? nullptr : recipe_of(launch, run, {});
}

bool Recipes::take_back(const runtime::Run& run) {
  const auto recipe = std::exchange(last_, nullptr);
  if (recipe == nullptr) return false;
  const bool is_read = std::any_of(recipe->cells.begin(), recipe->cells.end(), [&](const auto& made) {
    const CellPtr cell = made.second.lock();
    return cell != nullptr && std::find(run.inputs.begin(), run.inputs.end(), cell) != run.inputs.end();
  });
  if (!is_read) return false;
  recipe->trace->keeping_inputs = keeping_inputs(*recipe->trace);
  attach(recipe);
  return true;
}

bool Recipes::must_join(const Recipe& recipe, const Trace& trace, const runtime::Run& run) const {
  for (size_t i = 0; i < run.inputs.size(); ++i) {
    const CellPtr& cell = run.inputs[i];
    if (cell == nullptr) continue;
    if (cell->recipe.get() == &recipe) return true;
    const bool is_replaced = trace.replaces(i);
    if (is_replaced && std::find(recipe.inputs.begin(), recipe.inputs.end(), cell) != recipe.inputs.end())
      return true;
  }
  return false;
}

void Recipes::join(Launch* launch, runtime::Run* run) {
  for (size_t i = 0; i < live_.size();) {
    const auto recipe = live_[i].lock();
    if (recipe != nullptr && !must_join(*recipe, *launch->trace, *run)) {
      ++i;
      continue;
    }
    live_.erase(live_.begin() + static_cast<std::ptrdiff_t>(i));
    if (recipe != nullptr) join(recipe, launch, run);
  }
}

Recipes::Wiring Recipes::wire(const std::shared_ptr<Recipe>& recipe, const runtime::Run& run) {
  std::unordered_map<const Cell*, ValueId> made;
  for (const auto& [value, weak] : recipe->cells) {
    if (const CellPtr cell = weak.lock()) made[cell.get()] = value;
  }
  Wiring wiring;
  for (const auto& cell : run.inputs) {
    const auto it = made.find(cell.get());
    const bool is_made = it != made.end() && cell->recipe == recipe;
    wiring.values.push_back(is_made ? it->second : ir::kNone);
  }
  for (const auto& cell : recipe->inputs) {
    const auto at =
        cell == nullptr ? run.inputs.end() : std::find(run.inputs.begin(), run.inputs.end(), cell);
    wiring.inputs.push_back(at == run.inputs.end() ? ir::kNone
                                                   : static_cast<int32_t>(at - run.inputs.begin()));
  }
  return wiring;
}

Recipes::Joined Recipes::make_joined(const Trace& first, const Trace& second, const Wiring& wiring) {
  Joined joined;
  auto trace = std::make_shared<Trace>();
  ir::Graph& graph = trace->graph;
  joined.of_first.assign(first.graph.values().size(), ir::kNone);
  joined.of_second.assign(second.graph.values().size(), ir::kNone);
  std::vector<ir::Hint> hints;
  const auto add_input = [&](const ir::Graph& from, size_t input) {
    const ValueId added = graph.add_input(from.type(from.inputs()[input]));
    for (ir::Hint hint : from.hints()) {
      if (hint.input != static_cast<int32_t>(input)) continue;
      hint.input = graph.value(added).index;
      hints.push_back(hint);
    }
    return added;
  };
  for (size_t i = 0; i < wiring.values.size(); ++i) {
    if (wiring.values[i] != ir::kNone) continue;
    joined.of_second[second.graph.inputs()[i]] = add_input(second.graph, i);
    trace->donated.push_back(second.replaces(i));
  }
  for (size_t i = 0; i < wiring.inputs.size(); ++i) {
    const ValueId input = first.graph.inputs()[i];
    if (wiring.inputs[i] != ir::kNone) {
      joined.of_first[input] = joined.of_second[second.graph.inputs()[wiring.inputs[i]]];
      continue;
    }
    joined.of_first[input] = add_input(first.graph, i);
    trace->donated.push_back(false);
  }
  graph.set_hints(std::move(hints));
  auto numbers = first.graph.numbers();
  const auto first_number = static_cast<int32_t>(numbers.size());
  numbers.insert(numbers.end(), second.graph.numbers().begin(), second.graph.numbers().end());
  graph.set_numbers(std::move(numbers));
  auto lines = first.lines ? *first.lines : std::vector<std::string>();
  const auto first_line = static_cast<int32_t>(lines.size());
  if (second.lines) lines.insert(lines.end(), second.lines->begin(), second.lines->end());
  append(first.graph, 0, 0, &graph, &joined.of_first);
  for (size_t i = 0; i < wiring.values.size(); ++i) {
    if (wiring.values[i] != ir::kNone)
      joined.of_second[second.graph.inputs()[i]] = joined.of_first[wiring.values[i]];
  }
  append(second.graph, first_number, first_line, &graph, &joined.of_second);
  trace->id = second.id;
  trace->lines = std::make_shared<const std::vector<std::string>>(std::move(lines));
  trace->structure = ir::structure_hash(graph);
  joined.trace = std::move(trace);
  return joined;
}

void Recipes::join(const std::shared_ptr<Recipe>& recipe, Launch* launch, runtime::Run* run) {
  const Wiring wiring = wire(recipe, *run);
  const auto key = std::make_tuple(recipe->trace->id, launch->trace->id, wiring.values, wiring.inputs);
  auto known = joined_.find(key);
  if (known == joined_.end())
    known = joined_.emplace(key, make_joined(*recipe->trace, *launch->trace, wiring)).first;
  const Joined& joined = known->second;
  std::vector<CellPtr> inputs;
  for (size_t i = 0; i < run->inputs.size(); ++i) {
    if (wiring.values[i] == ir::kNone) inputs.push_back(std::move(run->inputs[i]));
  }
  for (size_t i = 0; i < recipe->inputs.size(); ++i) {
    if (wiring.inputs[i] == ir::kNone) inputs.push_back(recipe->inputs[i]);
  }
  run->inputs = std::move(inputs);
  auto numbers = recipe->numbers;
  numbers.insert(numbers.end(), run->numbers.begin(), run->numbers.end());
  run->numbers = std::move(numbers);
  for (auto& value : launch->held) value = joined.of_second[value];
  // What the script still holds of it is made with the rest.
  for (const auto& [value, weak] : recipe->cells) {
    const CellPtr cell = weak.lock();
    if (cell == nullptr || cell->recipe != recipe) continue;
    launch->held.push_back(joined.of_first[value]);
    run->outputs.push_back(cell);
  }
  launch->trace = joined.trace;
}

}  // namespace moai::engine
