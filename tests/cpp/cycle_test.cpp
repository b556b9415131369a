#include "engine/cycle.h"

#include <string>
#include <vector>

#include "catch.h"
#include "fake_device.h"

namespace moai::engine {
namespace {

using Traces = std::vector<uint64_t>;

Traces cycle_of(const Traces& launched) {
  CycleDetector cycles;
  for (const uint64_t trace : launched) cycles.launched(trace);
  return cycles.cycle();
}

TEST_CASE("a_cycle_is_the_shortest_that_was_gone_through_twice") {
  const struct {
    Traces launched, cycle;
  } rows[] = {
      {{}, {}},
      {{1}, {}},
      {{1, 1}, {1}},
      {{1, 2, 1}, {}},
      {{1, 2, 1, 2}, {1, 2}},
      {{9, 9, 8, 1, 2, 1, 2}, {1, 2}},  // after a warm-up
      {{1, 2, 1, 2, 1}, {2, 1}},        // the earliest of the last two rounds first
      {{1, 1, 2, 1, 1, 2}, {1, 1, 2}},
      {{1, 2, 1, 2, 3}, {}},  // an evaluation between the steps
      {{1, 2, 2}, {2}},
  };
  for (const auto& row : rows) CHECK(cycle_of(row.launched) == row.cycle);
}

TEST_CASE("a_cycle_of_64_traces_is_found_and_no_longer_one") {
  for (const uint64_t length : {1, 63, 64, 65, 200}) {
    Traces launched;
    Traces round;
    for (uint64_t i = 0; i < length; ++i) round.push_back(i);
    for (int rounds = 0; rounds < 3; ++rounds) launched.insert(launched.end(), round.begin(), round.end());
    CHECK(cycle_of(launched) == (length <= 64 ? round : Traces()));
  }
}

TEST_CASE("an_engine_tells_its_cycle_and_its_last_program") {
  const auto of = [](const char* op) {
    return trace_of(
        ir::parse(std::string("graph(%0: f32[4]) {\n %1: f32[4] = ") + op + "(%0)\n return %1\n}"));
  };
  const auto forward = of("aten.forward");
  const auto backward = of("aten.backward");
  Device device;
  CHECK(device.engine.dump().empty());
  CHECK(device.engine.cycle().empty());
  for (const auto& trace : {forward, backward, forward, backward}) {
    CHECK(device.error_of(device.launch(trace, {1})) == "no error");
  }
  CHECK(device.engine.cycle() == Traces{forward->id, backward->id});
  CHECK_THAT(device.engine.dump(), ContainsSubstring("%1: f32[4] = aten.backward(%0)"));
}

}  // namespace
}  // namespace moai::engine
