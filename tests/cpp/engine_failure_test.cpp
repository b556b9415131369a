// Values that nobody wants any more, runs that fail, runs that never ran.
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "catch.h"
#include "engine/engine.h"
#include "engine/stats.h"
#include "fake_device.h"
#include "threads.h"

namespace moai::engine {
namespace {

ir::Graph two_values() {
  return ir::parse(R"(graph(%0: f32[4]) {
    %1: f32[4] = aten.f(%0)
    %2: f32[4] = aten.g(%0)
    return %1, %2
  })");
}

TEST_CASE("a_value_dropped_before_its_run_is_not_computed") {
  Device device;
  Gate gate;
  device.hold_back(gate);
  Launched launched = device.launch(trace_of(two_values()), {1, 2});
  launched.cells[0] = nullptr;
  gate.open();
  CHECK(device.error_of(launched) == "no error");
  CHECK(holds(launched, two_values(), {1, 2}));
  const compile::Program& program = *device.journal->ran.at(0);
  CHECK(program.graph.outputs().size() == 1);
  CHECK(program.instructions.size() == 1);
}

TEST_CASE("a_failing_run_takes_with_it_what_it_promised_and_overwrote") {
  // Written in place although a later op raises: the fake one does not say that it may.
  const auto raising = trace_of(ir::parse(R"(graph(%0: f32[4], %1: f32[4]) {
    %2: f32[4] = aten.f(%0)
    %3@0: f32[4] = aten.add_.Tensor(%1, %2)
    %4: f32[4] = test.raise(%3)
    return %3, %4
  })"),
                                {false, true});
  const auto reading = trace_of(two_values());
  const int times = GENERATE(1, 2);  // interpreted; as it is after it failed once
  Device device;
  stats().reset();
  for (int time = 0; time < times; ++time) {
    Gate gate;
    device.hold_back(gate);
    const Launched bad = device.launch(raising, {3, 4});
    const Launched behind = device.launch(reading, {1}, {bad.cells[0]});
    gate.open();
    CHECK(device.error_of(bad) == "boom");
    CHECK(device.error_of(behind) == "boom");
    for (const auto& cell : {bad.cells[0], bad.cells[1], behind.cells[0]}) {
      CHECK(cell->state == State::kFailed);
      CHECK(cell->error == "boom");
    }
    CHECK(bad.inputs[0]->block != nullptr);
    CHECK(bad.inputs[1]->block == nullptr);
    CHECK(text_of(device.engine.worker().take_failure()) == "boom");

    const std::pair<CellPtr, const char*> rows[] = {
        {bad.cells[0], "moai run: a tensor's value is lost: the step that computed it failed\n  boom"},
        {bad.inputs[1],
         "moai run: a tensor's value is lost\n  it was recorded in moai.dry_run(), or was being "
         "overwritten when a step failed: compute it again"},
        {bad.inputs[0], "no error"},
    };
    for (const auto& [input, error] : rows) {
      CHECK(device.error_of(device.launch(reading, {1}, {input})) == error);
      device.engine.worker().take_failure();
    }
  }
  CHECK(stats().failures == times);
}

TEST_CASE("a_dry_run_promises_and_computes_nothing") {
  Device device;
  const auto trace = trace_of(two_values());
  device.engine.set_dry(true);
  const Launched dry = device.launch(trace, {1});
  const Launched next = device.launch(trace, {2}, {dry.cells[0]});
  device.engine.set_dry(false);
  for (const Launched& launched : {dry, next}) {
    CHECK(device.error_of(launched) == "no error");
    CHECK(launched.cells[0]->state == State::kReady);
    CHECK(launched.cells[0]->block == nullptr);
  }
  CHECK(device.journal->loaded.empty());
  CHECK_THAT(device.error_of(device.launch(trace, {1}, {dry.cells[0]})),
             ContainsSubstring("it was recorded in moai.dry_run()"));
}

// The worker looks at who holds what while others let go of it.
TEST_CASE("many_threads_launch_and_let_go") {
  constexpr int kThreads = 4;
  Device device;
  std::atomic<int> wrong{0};
  in_threads(kThreads, [&](int t) {
    const auto trace = trace_of(two_values());
    std::vector<Launched> all;
    for (int i = 0; i < 100; ++i) {
      all.push_back(device.launch(trace, {1, 2}));
      if (i % 3 == 0) all[i].cells[t % 2] = nullptr;
      if (i % 10 == 9) device.engine.worker().wait_until_fewer(2);
      if (i % 10 == 5) all[i / 2].cells[1] = nullptr;
    }
    for (const Launched& launched : all) {
      wrong += device.error_of(launched) != "no error" || !holds(launched, trace->graph, {1, 2});
    }
  });
  CHECK(wrong == 0);
  CHECK(device.journal->ran.size() == kThreads * 100);
  CHECK(device.journal->pool.stats().live_bytes == 0);
}

}  // namespace
}  // namespace moai::engine
