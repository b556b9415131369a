// Groups of several workers: lock step, and what a failure on one device does to the rest.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "catch.h"
#include "runtime/shared_memory.h"
#include "runtime/worker_group.h"
#include "threads.h"

namespace moai::runtime {
namespace {

using State = Cell::State;
using Part = std::function<void(Run&, int device)>;

// Workers whose runs sum one number over all devices.
struct Devices {
  explicit Devices(int count) : names(names_of(count)), transport(std::make_shared<SharedMemory>(names)) {
    std::vector<int> all;
    for (int d = 0; d < count; ++d) all.push_back(d);
    for (int d = 0; d < count; ++d) groups.push_back(transport->join(all, d));
    workers = std::make_unique<WorkerGroup>(names, transport);
  }

  static std::vector<std::string> names_of(int count) {
    std::vector<std::string> made;
    for (int d = 0; d < count; ++d) made.push_back(concat("cpu:", d));
    return made;
  }

  RunPtr submit(Part part, std::vector<CellPtr> outputs = {}, std::function<void(Run&)> once = [](Run&) {}) {
    auto run = std::make_shared<Run>();
    run->execute = std::move(once);
    run->execute_on = std::move(part);
    run->outputs = std::move(outputs);
    workers->submit(run);
    return run;
  }
  int64_t sum(int device, int64_t value) {
    const auto what = Collective::all_reduce(ir::DType::kI64, {1}, Reduce::kSum);
    groups[device]->start(what, &value, &value)->wait();
    return value;
  }
  std::string error_of(const RunPtr& run) {
    workers->wait(*run);
    return text_of(run->error);
  }

  std::vector<std::string> names;
  std::shared_ptr<SharedMemory> transport;
  std::vector<std::unique_ptr<Communicator>> groups;
  std::unique_ptr<WorkerGroup> workers;  // last: its threads use the rest
};

CellPtr cell_of(int parts) {
  auto cell = std::make_shared<Cell>(8);
  for (int d = 0; d < parts; ++d) cell->parts.push_back(std::make_shared<Cell>(8));
  return cell;
}

TEST_CASE("each_device_takes_part_in_each_run_once_and_none_runs_ahead") {
  for (int count = 1; count <= 4; ++count) {
    std::atomic<int> begun{0};
    std::atomic<int> ended{0};
    std::atomic<int> wrong{0};
    std::vector<std::vector<std::thread::id>> threads(count);
    {
      Devices devices(count);
      for (int i = 0; i < 50; ++i) {
        const auto once = [&, i](Run&) { wrong += begun++ != i || ended != i * count; };
        devices.submit(
            [&, i](Run&, int d) {
              wrong += begun != i + 1 || ended < i * count;
              if (i % 3 == d) std::this_thread::yield();
              if (i % 2 == 0) wrong += devices.sum(d, d + i) != count * (count - 1) / 2 + count * i;
              threads[d].push_back(std::this_thread::get_id());
              ++ended;
            },
            {}, once);
      }
    }
    CHECK(wrong == 0);
    CHECK(begun == 50);
    for (const auto& own : threads) {
      CHECK(own.size() == 50);
      CHECK(std::count(own.begin(), own.end(), own[0]) == 50);
      CHECK(std::count_if(threads.begin(), threads.end(), [&](const auto& t) { return t[0] == own[0]; }) ==
            1);
    }
  }
}

TEST_CASE("a_value_in_parts_is_ready_when_every_part_is") {
  Devices devices(3);
  const auto cell = cell_of(3);
  Gate gate;
  const auto run = devices.submit(
      [&](Run& r, int d) {
        if (d == 2) gate.pass();
        r.outputs[0]->parts[d]->state = State::kReady;
      },
      {cell});
  while (cell->parts[0]->state != State::kReady) std::this_thread::yield();
  CHECK(cell->state == State::kPending);
  gate.open();
  CHECK(devices.workers->wait(*run));
  CHECK(cell->state == State::kReady);
}

// On each device, at each point of a run: before its collective, with one in flight, after it, and with what
// the others do not notice.
TEST_CASE("a_failure_on_one_device_is_the_failure_of_the_run_and_of_what_is_queued") {
  constexpr int kCount = 3;
  Devices devices(kCount);
  const auto barrier = Collective::barrier();
  for (int bad = 0; bad < kCount; ++bad) {
    for (int point = 0; point < 4; ++point) {
      const auto cell = cell_of(kCount);
      const auto behind = cell_of(kCount);
      std::atomic<int> ran_behind{0};
      Gate gate;
      const auto held = devices.submit([&](Run&, int) { gate.pass(); });
      const auto run = devices.submit(
          [&](Run& r, int d) {
            const auto fail_at = [&](int here) {
              if (d == bad && here == point) throw std::runtime_error("boom in aten.mm");
            };
            fail_at(0);
            auto work = devices.groups[d]->start(barrier, nullptr, nullptr);
            fail_at(1);
            work->wait();
            fail_at(2);
            r.outputs[0]->parts[d]->state = State::kReady;
            if (point != 3) devices.sum(d, 1);
            fail_at(3);
          },
          {cell});
      const auto next = devices.submit([&](Run&, int) { ++ran_behind; }, {behind});
      gate.open();
      CHECK(devices.workers->wait(*held));
      const std::string wanted = concat("moai run: boom in aten.mm\n  on cpu:", bad);
      CHECK(devices.error_of(run) == wanted);
      CHECK(devices.error_of(next) == wanted);
      CHECK(ran_behind == 0);
      CHECK(cell->state == State::kFailed);
      CHECK(cell->error == wanted);
      CHECK(behind->state == State::kFailed);
      for (const auto& part : behind->parts) CHECK(part->state == State::kFailed);
      CHECK(devices.workers->has_failed());
      CHECK(text_of(devices.workers->take_failure()) == wanted);
      // The group and its transport are whole again.
      std::atomic<int> right{0};
      CHECK(devices.workers->wait(*devices.submit([&](Run&, int d) { right += devices.sum(d, 2) == 6; })));
      CHECK(right == kCount);
    }
  }
}

TEST_CASE("errors_keep_what_they_say_and_gain_the_device") {
  Devices devices(2);
  const std::pair<Part, const char*> rows[] = {
      {[](Run&, int d) {
         if (d == 1) throw Error(Phase::kRun, "out of memory on cpu:1");
       },
       "moai run: out of memory on cpu:1"},
      {[](Run&, int d) {
         if (d == 1) throw Error(Phase::kRun, "not cpu:10");
       },
       "moai run: not cpu:10\n  on cpu:1"},
      {[](Run&, int d) {
         if (d == 1) throw Error(Phase::kCompile, "no such op").hint("ask");
       },
       "moai compile: no such op\n  ask\n  on cpu:1"},
      {[](Run&, int d) {
         if (d == 1) throw 1;
       },
       "moai run: unknown error\n  on cpu:1"},
  };
  for (const auto& [part, wanted] : rows) {
    CHECK(devices.error_of(devices.submit(part)) == wanted);
    devices.workers->take_failure();
  }
}

TEST_CASE("what_fails_before_its_parts_runs_none") {
  Devices devices(2);
  std::atomic<int> ran{0};
  const auto run =
      devices.submit([&](Run&, int) { ++ran; }, {}, [](Run&) { throw std::runtime_error("no plan"); });
  CHECK(devices.error_of(run) == "no plan");
  CHECK(ran == 0);
}

TEST_CASE("cancelling_ends_a_run_that_waits_and_those_behind_it") {
  Devices devices(3);
  std::atomic<int> waiting{0};
  const auto stuck = devices.submit([&](Run&, int d) {
    if (d == 0) return;  // the others wait for it in vain
    ++waiting;
    devices.sum(d, 1);
  });
  const auto behind = devices.submit([](Run&, int) {});
  while (waiting < 2) std::this_thread::yield();
  devices.workers->cancel("interrupted");
  CHECK_THAT(devices.error_of(stuck), ContainsSubstring("was given up\n  interrupted"));
  CHECK(devices.error_of(behind) == "moai run: cancelled before it ran");
  devices.workers->take_failure();
  // With nothing to cancel the next run is not hit.
  devices.workers->cancel("interrupted again");
  std::atomic<int> right{0};
  CHECK(devices.workers->wait(*devices.submit([&](Run&, int d) { right += devices.sum(d, 1) == 3; })));
  CHECK(right == 3);
}

// Whoever waits forever would let the test time out.
TEST_CASE("a_group_that_ends_in_the_middle_finishes_or_fails_what_it_has") {
  for (int times = 0; times < 30; ++times) {
    std::vector<RunPtr> runs;
    std::atomic<int> sums{0};
    Devices devices(4);
    for (int i = 0; i < 5; ++i) {
      runs.push_back(devices.submit([&, i](Run&, int d) {
        if (times % 3 == 1 && i == 3 && d == times % 4) throw std::runtime_error("boom");
        sums += devices.sum(d, 1) == 4;
      }));
    }
    if (times % 3 == 2) devices.workers->cancel("interrupted");
    devices.workers = nullptr;
    int succeeded = 0;
    for (const auto& run : runs) {
      CHECK(run->done);
      succeeded += run->error == nullptr;
    }
    if (times % 3 == 0) CHECK(succeeded == 5);
    if (times % 3 == 1) CHECK(succeeded == 3);
    CHECK(sums >= 4 * succeeded);
  }
}

// What ran and what failed agrees with what every run was told, while threads submit, cancel and take.
TEST_CASE("several_threads_submit_to_devices_that_fail_at_random") {
  constexpr int kCount = 3;
  Devices devices(kCount);
  std::atomic<int> completed{0};
  std::atomic<int> succeeded{0};
  in_threads(3, [&](int t) {
    std::mt19937 random(t);
    std::vector<RunPtr> runs;
    for (int i = 0; i < 120; ++i) {
      const bool fails = random() % 11 == 0;
      const int bad = static_cast<int>(random() % kCount);
      auto ended = std::make_shared<std::atomic<int>>(0);
      runs.push_back(devices.submit([&, fails, bad, ended](Run&, int d) {
        devices.sum(d, 1);
        if (fails && d == bad) throw std::runtime_error("boom");
        devices.sum(d, 1);
        if (++*ended == kCount) ++completed;
      }));
      if (random() % 5 == 0) devices.workers->wait_until_fewer(3);
      if (random() % 40 == 0) devices.workers->cancel("interrupted");
      if (devices.workers->has_failed()) devices.workers->take_failure();
    }
    for (const auto& run : runs) succeeded += devices.workers->wait(*run);
  });
  CHECK(completed == succeeded);
  CHECK(succeeded > 0);
  CHECK(succeeded < 360);
}

}  // namespace
}  // namespace moai::runtime
