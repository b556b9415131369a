#include "engine/engine.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <string>
#include <utility>

#include "engine/load.h"
#include "engine/log.h"
#include "engine/measurements.h"
#include "engine/stats.h"
#include "ir/error.h"
#include "ir/passes.h"
#include "runtime/disk_cache.h"
#include "runtime/shared_memory.h"
#include "runtime/status_page.h"

namespace moai::engine {

namespace {

using Clock = std::chrono::steady_clock;

std::mutex& engine_lock() {
  static auto* lock = new std::mutex;
  return *lock;
}

std::atomic<Engine*> the_engine{nullptr};
std::atomic<bool> lost_by_fork{false};

// A child has the parent's memory and none of its threads; DataLoader's workers never notice.
void watch_forks() {
  static std::once_flag once;
  std::call_once(once, [] { pthread_atfork(nullptr, nullptr, [] { lost_by_fork.store(true); }); });
}

std::map<std::string, Kind>& kinds() {
  static auto* all = new std::map<std::string, Kind>;
  return *all;
}
Settings the_settings;

// Settled at first use: to look for GPUs takes time, and leaves what a fork cannot have.
Settings settled(Settings settings) {
  if (settings.kind == "cpu") return settings;
  const std::string asked = settings.kind;
  const bool is_asked = !asked.empty();
  Lacking lacking{"moai was built without " + settings.kind, false};
  for (const auto& [name, kind] : kinds()) {
    if (is_asked ? name != asked : kind.prepare == nullptr) continue;
    settings.kind = name;
    lacking = kind.prepare ? kind.prepare(settings) : Lacking{};
    if (lacking.why.empty()) return settings;
  }
  if (is_asked || lacking.is_surprising) say(lacking.why + ": running on the CPU");
  settings.kind = "cpu";
  settings.devices = 1;
  return settings;
}

// Adds to the statistics how long a run took, and that it failed unless it is told otherwise.
class Timed {
 public:
  // `then` gets the nanoseconds too.
  explicit Timed(std::function<void(int64_t)> then) : then_(std::move(then)) {}
  ~Timed() {
    const int64_t took = ns_since(start_);
    stats().run_ns.fetch_add(took, std::memory_order_relaxed);
    if (!succeeded_) stats().failures.fetch_add(1, std::memory_order_relaxed);
    then_(took);
  }
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;
  void succeeded() const { succeeded_ = true; }

 private:
  const std::function<void(int64_t)> then_;
  Clock::time_point start_ = Clock::now();
  mutable bool succeeded_ = false;
};

// Throws when an input has no value: what is computed from it would have none either.
void check_readable(const runtime::CellPtr& cell) {
  if (cell == nullptr) return;
  if (cell->state.load(std::memory_order_acquire) == runtime::Cell::State::kFailed) {
    throw Error(Phase::kRun, "a tensor's value is lost: the step that computed it failed")
        .detail(cell->error);
  }
  if (cell->is_empty()) {
    throw Error(Phase::kRun, "a tensor's value is lost")
        .hint(
            "it was recorded in moai.dry_run(), or was being overwritten when a step failed: compute it "
            "again");
  }
}

}  // namespace

Engine::Engine(const Kind& kind, const Settings& settings)
    : devices_(kind.devices ? kind.devices(settings)
                            : runtime::make_devices(settings.devices, kind.cores(), settings.memory_bytes)),
      is_apart_(devices_.size() > 1 || devices_[0]->memory.source() != nullptr),
      has_limit_(settings.memory_bytes >= 0),
      before_launch_(kind.before_launch),
      measurements_(std::make_unique<Measurements>()) {
  std::vector<std::string> names;
  for (const auto& device : devices_) names.push_back(device->name);
  status_ = runtime::StatusPage::make(settings.status, names, settings.memory_bytes);
  if (devices_.size() > 1) {
    transport_ = kind.transport ? kind.transport(settings) : std::make_shared<runtime::SharedMemory>(names);
  }
  for (const auto& device : devices_) backends_.push_back(kind.make(*device, transport_.get()));
  loader_ = std::make_unique<Loader>(settings, is_apart_, backends_);
  worker_ = std::make_unique<runtime::WorkerGroup>(
      std::move(names), transport_, [this](int device) { backends_[static_cast<size_t>(device)]->attach(); });
}

Engine::~Engine() = default;

runtime::RunPtr Engine::launch(std::shared_ptr<Trace> trace, std::vector<runtime::CellPtr> inputs,
                               std::vector<runtime::Number> numbers, std::vector<Held> held) {
  static std::atomic<uint64_t> next_id{1};
  auto run = std::make_shared<runtime::Run>();
  run->id = next_id.fetch_add(1);
  run->inputs = std::move(inputs);
  run->numbers = std::move(numbers);
  std::vector<ir::ValueId> values;
  values.reserve(held.size());
  for (auto& entry : held) {
    values.push_back(entry.value);
    entry.cell->run_id = run->id;
    run->outputs.push_back(std::move(entry.cell));
  }
  const bool dry = dry_.load();
  run->execute = [this, dry, trace = std::move(trace), values = std::move(values)](runtime::Run& r) {
    if (!dry) return execute({trace, values}, r);
    {
      const std::lock_guard<std::mutex> guard(last_lock_);
      const auto& longest = dry_step_.trace;
      if (longest == nullptr || trace->graph.nodes().size() >= longest->graph.nodes().size()) {
        dry_step_ = {trace, {}, {}};
        for (const auto number : r.numbers) dry_step_.numbers.push_back(number.i);
        for (size_t i = 0; i < values.size(); ++i) {
          if (r.outputs[i].use_count() > 1) dry_step_.held.push_back(values[i]);
        }
      }
    }
    for (const auto& cell : r.outputs)
      cell->state.store(runtime::Cell::State::kReady, std::memory_order_release);
  };
  stats().launches.fetch_add(1, std::memory_order_relaxed);
  before_launch_();
  worker_->submit(run);
  return run;
}

void Engine::execute(Launch launch, runtime::Run& run) {
  settle_moved();
  for (const auto& cell : run.inputs) check_readable(cell);
  recipes_.join(&launch, &run);
  LoadedProgram* program = program_for(launch, run);
  if (program == nullptr && take_back(run)) {
    recipes_.join(&launch, &run);
    program = program_for(launch, run);
  }
  if (program == nullptr) program = &leave_recipe(&launch, run);
  Trace& trace = *launch.trace;
  const auto& held = launch.held;
  const bool is_first = run.again == nullptr;  // not queued once more
  if (is_first) ++trace.runs;
  if (status_) {
    status_->set_counts(stats().steps.load(std::memory_order_relaxed),
                        stats().tokens.load(std::memory_order_relaxed));
    if (program->predicted) status_->set_text(program->layout);
  }
  {
    const std::lock_guard<std::mutex> guard(last_lock_);
    last_ = program->programs[0];
    if (is_first) cycles_.launched(trace.id);
  }
  std::vector<runtime::CellPtr> outputs(program->outputs.size());
  for (size_t i = 0; i < held.size(); ++i) {
    if (run.outputs[i].use_count() <= 1) continue;
    auto at = std::lower_bound(program->outputs.begin(), program->outputs.end(), held[i]);
    // A value held twice is an output twice.
    while (at != program->outputs.end() && outputs[at - program->outputs.begin()] != nullptr) ++at;
    if (at != program->outputs.end() && *at == held[i])
      outputs[at - program->outputs.begin()] = run.outputs[i];
  }
  if (program->capacity > 0) {
    allow_again(launch.trace, run, [this, launch, inputs = run.inputs](runtime::Run& r) {
      r.inputs = inputs;
      execute(launch, r);
    });
  }
  if (is_apart_) return execute_apart(trace, run, *program, outputs);
  std::vector<runtime::CellPtr> old;
  for (size_t i = 0; i < run.inputs.size(); ++i) {
    if (trace.replaces(i) && run.inputs[i]) old.push_back(run.inputs[i]);
  }
  for (const auto& cell : run.inputs) gather(cell);
  if (status_) status_->begin_run(0);
  const Timed timed([this](int64_t took) { publish(0, took, 0); });
  const auto start = Clock::now();
  program->executables[0]->run(run.inputs, run.numbers, outputs);
  timed.succeeded();
  if (program->predicted)
    measurements_->add(program->layout, program->predicted,
                       {static_cast<double>(ns_since(start)) * 1e-9, 0, 0});
  let_go(old);
  // Interpreted once: the next time there will be a plan, and many traces never come back.
  if (!program->programs[0]->has_arena) trace.programs.clear();
}

bool Engine::take_back(const runtime::Run& run) {
  const std::lock_guard<std::mutex> guard(cells_lock_);
  return recipes_.take_back(run);
}

// What `moai smi` is to see of a device whose run has ended.
void Engine::publish(int device, int64_t busy_ns, int64_t waited_ns) {
  if (!status_) return;
  const auto memory = devices_[static_cast<size_t>(device)]->memory.stats();
  status_->set_memory(device, memory.live_bytes, memory.peak_bytes, memory.reserved_bytes);
  status_->end_run(device, busy_ns, waited_ns);
}

runtime::MemoryStats Engine::memory_stats() const {
  runtime::MemoryStats sum;
  for (const auto& device : devices_) {
    const auto one = device->memory.stats();
    sum.live_bytes += one.live_bytes;
    sum.peak_bytes += one.peak_bytes;
    sum.reserved_bytes += one.reserved_bytes;
  }
  return sum;
}

void Engine::reset_peak_memory() {
  for (const auto& device : devices_) {
    device->memory.reset_peak();
    device->host_memory.reset_peak();
  }
}

void Engine::trim_memory() {
  for (const auto& device : devices_) {
    device->memory.trim();
    device->host_memory.trim();
  }
  host_memory_.trim();
}

void Engine::set_dry(bool dry) {
  const std::lock_guard<std::mutex> guard(last_lock_);
  if (dry) dry_step_ = {};
  dry_.store(dry);
}

ir::Graph Engine::dry_step() const {
  const std::lock_guard<std::mutex> guard(last_lock_);
  if (dry_step_.trace == nullptr) return {};
  return ir::canonicalise_views(simplified(dry_step_.trace->graph, dry_step_.held), dry_step_.numbers);
}

std::pair<std::vector<ir::NumberKind>, std::vector<int64_t>> Engine::dry_numbers() const {
  const std::lock_guard<std::mutex> guard(last_lock_);
  if (dry_step_.trace == nullptr) return {};
  return {dry_step_.trace->graph.numbers(), dry_step_.numbers};
}

std::vector<uint64_t> Engine::cycle() const {
  const std::lock_guard<std::mutex> guard(last_lock_);
  return cycles_.cycle();
}

std::string Engine::dump() const {
  const std::lock_guard<std::mutex> guard(last_lock_);
  return last_ ? ir::print(ir::canonicalise_views(last_->graph)) + "\n" + compile::print(*last_)
               : std::string();
}

Engine& engine() {
  if (lost_by_fork.load(std::memory_order_relaxed)) {
    throw Error(Phase::kRun, "this process was forked from one that uses moai, whose device it cannot reach")
        .hint("start it with multiprocessing's 'spawn' method, or leave moai tensors to the parent");
  }
  if (Engine* existing = the_engine.load(std::memory_order_acquire)) return *existing;
  const std::lock_guard<std::mutex> guard(engine_lock());
  if (the_engine.load() == nullptr) {
    const Settings settings = settled(the_settings);
    const auto kind = kinds().find(settings.kind);
    MOAI_ASSERT(kind != kinds().end(), "no kind of device called ", settings.kind, " was configured");
    watch_forks();
    the_engine.store(new Engine(kind->second, settings), std::memory_order_release);
  }
  return *the_engine.load();
}

bool engine_exists() {
  return the_engine.load(std::memory_order_acquire) != nullptr &&
         !lost_by_fork.load(std::memory_order_relaxed);
}

void configure(Kind kind, const std::string& name) {
  const std::lock_guard<std::mutex> guard(engine_lock());
  kinds()[name] = std::move(kind);
}

void configure(Settings settings) {
  const std::lock_guard<std::mutex> guard(engine_lock());
  runtime::set_kernel_folder(settings.cache_of("kernels"));
  the_settings = std::move(settings);
}

void shut_down() {
  if (lost_by_fork.load()) return;
  const std::lock_guard<std::mutex> guard(engine_lock());
  delete the_engine.exchange(nullptr);
}

}  // namespace moai::engine
