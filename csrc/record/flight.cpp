#include "record/flight.h"

#include <Python.h>
#include <c10/util/Exception.h>

#include <chrono>
#include <deque>

#include "engine/log.h"
#include "engine/stats.h"
#include "ir/error.h"
#include "record/gil.h"
#include "runtime/profiler.h"

namespace moai::record {

namespace {

using runtime::Cell;

// Recording may be this many steps ahead of running.
constexpr size_t kMostInFlight = 3;
constexpr int kSignalPollMs = 50;
// This share of the memory is left to what is recorded, which may hold the rest, to run in.
constexpr double kSpare = 1.0 / 16;

struct Flight {
  runtime::RunPtr run;
  std::vector<Restore> restores;
};

// Launched and not known to have succeeded; oldest first. Under the recorder's lock.
std::deque<Flight>& flights() {
  static auto* all = new std::deque<Flight>;
  return *all;
}

// Lets go of what was kept in case a run failed.
void forget_finished(runtime::WorkerGroup& worker) {
  auto& all = flights();
  while (!all.empty() && worker.is_done(*all.front().run) && !all.front().run->error) all.pop_front();
}

void restore_all() {
  auto& all = flights();
  for (auto flight = all.rbegin(); flight != all.rend(); ++flight) {
    if (!flight->run->error) continue;
    for (auto& entry : flight->restores) {
      auto strong = entry.storage.lock();
      if (!strong) continue;
      auto& storage = static_cast<Storage&>(*strong);
      if (storage.cell != entry.after.lock()) continue;
      // An old value that was being overwritten when the run failed is lost, and `after` says so at each
      // read.
      if (entry.before == nullptr ||
          (entry.before->is_empty() && entry.before->state.load() == Cell::State::kReady)) {
        continue;
      }
      storage.cell = entry.before;
    }
  }
  all.clear();
}

// Torch raises its own OutOfMemoryError for its own type alone.
[[noreturn]] void rethrow_as_torch(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const OutOfMemory& error) {
    throw c10::OutOfMemoryError({__func__, __FILE__, static_cast<uint32_t>(__LINE__)}, error.what());
  }
}

template <typename Ready>
void wait_until(const Ready& ready) {
  const runtime::Span span(runtime::Profiler::Lane::kHost, "wait");
  const auto start = std::chrono::steady_clock::now();
  while (!without_gil([&] { return ready(kSignalPollMs); })) throw_on_signal();
  engine::stats().wait_ns.fetch_add(engine::ns_since(start), std::memory_order_relaxed);
}

}  // namespace

void launch(std::shared_ptr<engine::Trace> trace, std::vector<runtime::CellPtr> inputs,
            std::vector<runtime::Number> numbers, std::vector<engine::Held> held,
            std::vector<Restore> restores) {
  auto& engine = engine::engine();
  forget_finished(engine.worker());
  auto run = engine.launch(std::move(trace), std::move(inputs), std::move(numbers), std::move(held));
  flights().push_back({std::move(run), std::move(restores)});
}

void rethrow_failure() {
  if (!engine::engine_exists() || !engine::engine().worker().has_failed()) return;
  auto& worker = engine::engine().worker();
  std::exception_ptr failure;
  {
    const Guard guard(lock());
    failure = worker.take_failure();
    if (!failure) return;
    abandon_all();
    restore_all();
  }
  rethrow_as_torch(failure);
}

runtime::BlockPtr allocate(int64_t bytes) {
  auto& pool = engine::engine().memory();
  if (!pool.has_room(runtime::MemoryPool::size_of(bytes), kSpare)) {
    if (engine::logs(engine::Topic::kMemory))
      engine::log(engine::Topic::kMemory,
                  concat("little room for ", bytes, " bytes: running what is recorded"));
    synchronize(CutReason::kSync);
  }
  try {
    return pool.allocate(bytes);
  } catch (const OutOfMemory&) {
    rethrow_as_torch(std::current_exception());
  }
}

void wait(const runtime::CellPtr& cell) {
  runtime::RunPtr run;
  if (cell->state.load(std::memory_order_acquire) == Cell::State::kPending) {
    const Guard guard(lock());
    for (const auto& flight : flights()) {
      if (flight.run->id == cell->run_id) run = flight.run;
    }
  }
  if (run != nullptr) {
    auto& worker = engine::engine().worker();
    wait_until([&](int ms) { return worker.wait_for(*run, ms); });
    const Guard guard(lock());
    forget_finished(worker);
  }
  rethrow_failure();
  if (cell->state.load(std::memory_order_acquire) == Cell::State::kFailed) {
    throw Error(Phase::kRun, "this tensor's value is lost: the step that computed it failed")
        .detail(cell->error);
  }
  MOAI_ASSERT(cell->state.load() == Cell::State::kReady, "a finished run left a value open");
}

void bound_flight() {
  if (!engine::engine_exists()) return;
  auto& worker = engine::engine().worker();
  if (worker.wait_until_fewer_for(kMostInFlight + 1, 0)) return;
  wait_until([&](int ms) { return worker.wait_until_fewer_for(kMostInFlight + 1, ms); });
}

void synchronize(CutReason reason) {
  {
    const Guard guard(lock());
    cut_all(reason);
  }
  if (!engine::engine_exists()) return;
  auto& worker = engine::engine().worker();
  wait_until([&](int ms) { return worker.wait_until_fewer_for(1, ms); });
  {
    const Guard guard(lock());
    forget_finished(worker);
  }
  rethrow_failure();
}

void mark_step(CutReason reason) {
  rethrow_failure();
  {
    const Guard guard(lock());
    Recorder::current().cut(reason, "");
  }
  bound_flight();
}

}  // namespace moai::record
