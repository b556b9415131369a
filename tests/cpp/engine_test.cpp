#include "engine/engine.h"

#include <string>
#include <vector>

#include "catch.h"
#include "engine/stats.h"
#include "fake_device.h"
#include "random_step.h"

namespace moai::engine {
namespace {

// Interpreted, planned, and whatever program then serves; a value may be held twice.
TEST_CASE("held_values_are_what_the_graph_means") {
  for (uint32_t seed = 0; seed < 300; ++seed) {
    INFO("seed " << seed);
    Device device;
    ir::RandomStep step(seed);
    const ir::Graph graph = step.make(2 + seed % 23);
    const auto trace = trace_of(graph, step.donated());
    for (uint32_t turn = 0; turn < 4; ++turn) {
      Ids held;
      for (size_t i = 0; i < graph.outputs().size(); ++i) {
        if (turn == 0 || (seed + i) % turn == 0) held.push_back(graph.outputs()[i]);
      }
      const Launched launched = device.launch(trace, held, device.inputs(graph), step.numbers());
      REQUIRE(device.error_of(launched) == "no error");
      REQUIRE(holds(launched, graph, held, step.numbers()));
      for (size_t i = 0; i < launched.inputs.size(); ++i) {
        if (step.donated()[i]) continue;
        const ir::Type& type = graph.type(graph.inputs()[i]);
        REQUIRE(Device::shown(launched.inputs[i], type).elements() ==
                Device::shown(device.inputs(graph)[i], type).elements());
      }
    }
    REQUIRE(device.journal->attached == 1);
    REQUIRE(device.journal->pool.stats().live_bytes == 0);
  }
}

// Values are told apart by their sizes.
ir::Graph chain() {
  return ir::parse(R"(graph(%0: f32[4]) {
    %1: f32[1] = aten.f(%0)
    %2: f32[2] = aten.g(%1)
    %3: f32[3] = aten.h(%2)
    return %3
  })");
}

Ids outputs_of(const compile::Program& program) {
  Ids sizes;
  for (const ir::ValueId output : program.graph.outputs()) {
    sizes.push_back(static_cast<ir::ValueId>(program.graph.type(output).sizes[0]));
  }
  return sizes;
}

TEST_CASE("the_smallest_program_that_keeps_what_is_held_runs") {
  const struct {
    Ids held, outputs;
    size_t loaded;
  } rows[] = {
      {{1, 2}, {1, 2}, 1},  // interpreted, and not kept
      {{2}, {2}, 2},        //
      {{2, 1}, {1, 2}, 3},  //
      {{2}, {2}, 3},        // served by the second
      {{1}, {1, 2}, 3},     // by the third
      {{}, {2}, 3},         //
      {{1, 3}, {1, 3}, 4},  //
      {{3, 3}, {3, 3}, 5},  //
      {{1, 2, 3}, {1, 2, 3}, 6},
  };
  Device device;
  const auto trace = trace_of(chain());
  stats().reset();
  for (const auto& row : rows) {
    const Launched launched = device.launch(trace, row.held);
    REQUIRE(device.error_of(launched) == "no error");
    const compile::Program& program = *device.journal->loaded.at(row.loaded - 1);
    CHECK(device.journal->loaded.size() == row.loaded);
    CHECK(outputs_of(*device.journal->ran.back()) == row.outputs);
    CHECK(program.has_arena == (row.loaded > 1));
    CHECK(holds(launched, chain(), row.held));
  }
  CHECK(device.journal->loaded[0]->instructions.size() == 2);  // nobody held what the third op makes
  CHECK(stats().launches == 9);
  CHECK(stats().compiles == 5);
  CHECK(stats().resizes == 0);
}

TEST_CASE("a_known_structure_in_other_sizes_is_planned_at_once") {
  Device device;
  const auto one = [](const char* size) {
    const std::string type = std::string(": f32[") + size + "]";
    return trace_of(ir::parse("graph(%0" + type + ") {\n %1" + type + " = aten.relu(%0)\n return %1\n}"));
  };
  stats().reset();
  const auto first = one("4");
  for (const auto& trace : {first, first, one("5")}) device.error_of(device.launch(trace, {1}));
  std::vector<bool> planned;
  for (const auto& program : device.journal->loaded) planned.push_back(program->has_arena);
  CHECK(planned == std::vector<bool>{false, true, true});
  CHECK(stats().compiles == 1);
  CHECK(stats().resizes == 1);
}

}  // namespace
}  // namespace moai::engine
