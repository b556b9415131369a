#include "runtime/worker_group.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "catch.h"
#include "threads.h"

namespace moai::runtime {
namespace {

using State = Cell::State;
using Execute = std::function<void(Run&)>;

RunPtr run_of(Execute execute, std::vector<CellPtr> outputs = {}) {
  auto run = std::make_shared<Run>();
  run->execute = std::move(execute);
  run->outputs = std::move(outputs);
  return run;
}

RunPtr submit(WorkerGroup& worker, Execute execute, std::vector<CellPtr> outputs = {}) {
  auto run = run_of(std::move(execute), std::move(outputs));
  worker.submit(run);
  return run;
}

void succeed(Run&) {}
void fail(Run&) { throw std::runtime_error("boom"); }

TEST_CASE("runs_go_one_by_one_in_order_on_one_thread") {
  std::vector<int> order;
  std::vector<std::thread::id> threads;
  const auto note = [&](int i) {
    order.push_back(i);
    threads.push_back(std::this_thread::get_id());
  };
  std::vector<int> wanted{0};
  {
    WorkerGroup worker([&] { note(0); });
    for (int i = 1; i <= 100; ++i) {
      submit(worker, [&, i](Run&) { note(i); });
      wanted.push_back(i);
    }
  }  // what was submitted is finished before the worker is gone
  CHECK(order == wanted);
  CHECK(threads == std::vector<std::thread::id>(wanted.size(), threads[0]));
  CHECK(threads[0] != std::this_thread::get_id());
}

TEST_CASE("who_sees_a_failed_cell_finds_the_failure") {
  WorkerGroup worker;
  for (int round = 0; round < 5; ++round) {
    std::vector<CellPtr> cells(200000);  // so many that they do not fail at one moment
    for (auto& cell : cells) cell = std::make_shared<Cell>(4);
    const auto run = submit(worker, fail, cells);
    while (cells.front()->state.load(std::memory_order_acquire) == State::kPending) {
    }
    CHECK(worker.has_failed());
    worker.wait(*run);
    worker.take_failure();
  }
}

TEST_CASE("a_failure_cancels_what_is_queued_and_is_told_once") {
  const auto filled = std::make_shared<Cell>(4);
  const auto open = std::make_shared<Cell>(4);
  const auto behind = std::make_shared<Cell>(4);
  const auto late = std::make_shared<Cell>(4);
  std::atomic<int> executed{0};
  const Execute count = [&](Run&) { ++executed; };
  const Execute fill_one_and_fail = [](Run& run) {
    run.outputs[0]->state = State::kReady;
    fail(run);
  };
  WorkerGroup worker;
  Gate gate;
  const auto before = submit(worker, [&](Run&) { gate.pass(); });
  const auto bad = submit(worker, fill_one_and_fail, {filled, open, nullptr});
  const auto queued = submit(worker, count, {behind});
  CHECK_FALSE(worker.has_failed());
  gate.open();
  CHECK(worker.wait(*before));
  CHECK_FALSE(worker.wait(*bad));
  CHECK_FALSE(worker.wait(*queued));
  CHECK(worker.has_failed());
  const auto refused = submit(worker, count, {late});
  CHECK(worker.is_done(*refused));
  for (const auto& run : {bad, queued, refused}) CHECK(text_of(run->error) == "boom");
  CHECK(filled->state == State::kReady);
  for (const auto& cell : {open, behind, late}) {
    CHECK(cell->state == State::kFailed);
    CHECK(cell->error == "boom");
  }
  CHECK(executed == 0);

  CHECK(text_of(worker.take_failure()) == "boom");
  CHECK(worker.take_failure() == nullptr);
  CHECK_FALSE(worker.has_failed());
  CHECK(worker.wait(*submit(worker, count)));
  CHECK(executed == 1);
}

TEST_CASE("a_failed_run_that_may_run_again_does_so_before_any_other") {
  for (const int times : {1, 3}) {
    std::vector<int> order;
    WorkerGroup worker;
    int left = times;
    auto cell = std::make_shared<Cell>(0);
    auto run = run_of(
        [&](Run&) {
          order.push_back(1);
          if (left >= 0) fail(*run_of(succeed));
        },
        {cell});
    run->again = [&](Run& r) {
      if (left-- == 0) r.execute = [&](Run&) { order.push_back(2); };
      return true;
    };
    worker.submit(run);
    auto next = submit(worker, [&](Run&) { order.push_back(3); });
    CHECK(worker.wait(*next));
    CHECK(worker.wait(*run));
    CHECK(worker.take_failure() == nullptr);
    std::vector<int> wanted(static_cast<size_t>(times) + 1, 1);
    wanted.insert(wanted.end(), {2, 3});
    CHECK(order == wanted);
  }
}

TEST_CASE("a_run_that_may_not_run_again_has_failed") {
  WorkerGroup worker;
  auto run = run_of(fail);
  int asked = 0;
  run->again = [&](Run&) { return ++asked > 1; };
  worker.submit(run);
  CHECK(!worker.wait(*run));
  CHECK(asked == 1);
  CHECK(worker.take_failure() != nullptr);
}

TEST_CASE("a_lost_value_says_why") {
  const std::pair<Execute, const char*> rows[] = {
      {[](Run&) { throw std::runtime_error("why"); }, "why"},
      {[](Run&) { throw std::runtime_error("why\nException raised from f at f.cpp:1\nframe 0"); }, "why"},
      {[](Run&) { throw 1; }, "unknown error"},
  };
  for (const auto& [execute, why] : rows) {
    const auto cell = std::make_shared<Cell>(4);
    WorkerGroup worker;
    worker.wait(*submit(worker, execute, {cell}));
    CHECK(cell->error == why);
  }
}

TEST_CASE("cancelled_runs_end_without_running") {
  std::atomic<int> executed{0};
  const auto cell = std::make_shared<Cell>(4);
  WorkerGroup worker;
  Gate begun;
  Gate gate;
  const auto running = submit(worker, [&](Run&) { begun.open(), gate.pass(); });
  std::vector<RunPtr> queued;
  for (int i = 0; i < 3; ++i) queued.push_back(submit(worker, [&](Run&) { ++executed; }, {cell}));
  begun.pass();
  worker.cancel_queued();
  for (const auto& run : queued) {
    CHECK_FALSE(worker.wait(*run));
    CHECK(text_of(run->error) == "moai run: cancelled before it ran");
  }
  CHECK(cell->state == State::kFailed);
  CHECK_FALSE(worker.is_done(*running));
  CHECK_FALSE(worker.has_failed());
  gate.open();
  CHECK(worker.wait(*running));
  CHECK(executed == 0);
}

TEST_CASE("every_wait_ends_when_its_run_does_and_no_sooner") {
  Gate begun;
  Gate gate;
  WorkerGroup worker;
  const auto first = submit(worker, [&](Run&) { begun.open(), gate.pass(); });
  const auto second = submit(worker, succeed);
  begun.pass();
  CHECK_FALSE(worker.wait_for(*first, 1));
  CHECK_FALSE(worker.wait_until_fewer_for(2, 1));
  CHECK(worker.wait_until_fewer_for(3, 0));
  const std::function<bool()> waits[] = {
      [&] { return worker.wait(*first); },
      [&] { return worker.wait(*second); },
      [&] { return worker.wait_for(*second, 60000); },
      [&] { return worker.wait_until_fewer_for(1, 60000); },
      [&] { return worker.wait_until_fewer(1), worker.is_done(*second); },
  };
  std::atomic<bool> opened{false};
  std::atomic<int> right{0};
  in_threads(6, [&](int i) {
    if (i == 5) {
      opened = true;
      return gate.open();
    }
    right += waits[i]() && opened;
  });
  CHECK(right == 5);
}

TEST_CASE("a_wait_for_a_run_that_is_refused_ends") {
  using Clock = std::chrono::steady_clock;
  WorkerGroup worker;
  worker.wait(*submit(worker, fail));
  const auto run = run_of(succeed);
  const auto start = Clock::now();
  in_threads(2, [&](int i) {
    if (i == 0) return static_cast<void>(worker.wait_for(*run, 20000));
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // most likely it waits by now
    worker.submit(run);
  });
  CHECK(worker.is_done(*run));
  CHECK(Clock::now() - start < std::chrono::seconds(10));
}

TEST_CASE("a_finished_run_holds_nothing") {
  const auto held = std::make_shared<Cell>(4);
  for (const Execute& execute : {Execute(succeed), Execute(fail)}) {
    WorkerGroup worker;
    const auto run = run_of([held, execute](Run& r) { execute(r); }, {held});
    run->inputs = {held};
    worker.submit(run);
    worker.wait(*run);
    CHECK(held.use_count() == 1);
  }
}

// Each failure is thrown by one run, and no other runs until somebody has taken it.
TEST_CASE("many_threads_submit_fail_and_take") {
  constexpr int kThreads = 4;
  constexpr int kRuns = 400;
  std::vector<std::vector<int>> ran(kThreads);  // by the worker's thread, which is one
  int thrown = 0;                               // likewise
  std::atomic<int> taken{0};
  std::atomic<int> succeeded{0};
  WorkerGroup worker;
  in_threads(kThreads, [&](int t) {
    std::vector<RunPtr> runs;
    for (int i = 0; i < kRuns; ++i) {
      runs.push_back(submit(worker, [&, t, i](Run& run) {
        ran[t].push_back(i);
        if (i % 17 != 3) return;
        ++thrown;
        fail(run);
      }));
      if (i % 5 == 0) worker.wait_until_fewer(3);
      if (i % 7 == 0) worker.wait(*runs[i / 2]);
      if (i % 101 == 0) worker.cancel_queued();
      if (worker.has_failed() && text_of(worker.take_failure()) == "boom") ++taken;
    }
    for (const auto& run : runs) succeeded += worker.wait(*run);
  });
  worker.wait_until_fewer(1);
  if (worker.take_failure()) ++taken;
  size_t executed = 0;
  for (const auto& one : ran) {
    executed += one.size();
    CHECK(std::is_sorted(one.begin(), one.end()));
  }
  CHECK(thrown > 0);
  CHECK(taken == thrown);
  CHECK(static_cast<int>(executed) == succeeded + thrown);
}

}  // namespace
}  // namespace moai::runtime
