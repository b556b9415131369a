// A launch on devices that are apart from the host or from each other: bringing inputs to where the program
// reads them, and what its parts make.

#include <algorithm>
#include <atomic>
#include <chrono>

#include "engine/engine.h"
#include "engine/load.h"
#include "engine/measurements.h"
#include "engine/stats.h"
#include "ir/error.h"
#include "runtime/status_page.h"

namespace moai::engine {

using Clock = std::chrono::steady_clock;
using runtime::BlockPtr;
using runtime::Cell;
using runtime::CellPtr;
using runtime::ShardingPtr;

// Note [Where values lie]
// One device whose memory is the host's too has whole values, where the host finds them. Otherwise (several
// devices, or one that has memory of its own) a value lies in parts, one for each device, even where there is
// one device and its part is everything. A value that comes from the host lies there, whole, until a program
// reads it: then each device cuts its part out of it. If it lives on, it lies on the devices from the next
// run on (a run that fails leaves it where it was). What a program makes lies as it says; another program
// that wants it elsewhere gets it by way of the host, which is slow and happens when a script's traces have
// plans that differ.

namespace {

bool are_there(const std::vector<CellPtr>& parts) {
  return std::all_of(parts.begin(), parts.end(), [](const CellPtr& part) {
    return part->state.load(std::memory_order_acquire) == Cell::State::kReady && !part->is_empty();
  });
}

}  // namespace

struct Engine::Shared {
  std::vector<std::vector<CellPtr>> inputs;   // by device and input
  std::vector<std::vector<CellPtr>> outputs;  // by device and output
  std::vector<std::vector<CellPtr>> old;      // by device: what it has of values that the step replaces
  struct Cut {
    BlockPtr whole;
    std::vector<CellPtr> parts;
    ShardingPtr sharding;
  };
  std::vector<Cut> cuts;
  std::atomic<bool> failed{false};
  // Added up over the devices, in nanoseconds; the last one to end its part tells them.
  std::atomic<int64_t> took{0}, moved{0}, waited{0};
  std::atomic<size_t> ended{0};
};

Surroundings Engine::surroundings(const runtime::Run& run) const {
  Surroundings found;
  if (!is_apart_) {
    if (!has_limit_) return found;
    found.other_bytes =
        devices_[0]->memory.stats().live_bytes - runtime::MemoryPool::size_of(backends_[0]->arena_bytes());
    for (const auto& cell : run.inputs) {
      if (cell != nullptr && cell->block != nullptr)
        found.other_bytes -= runtime::MemoryPool::size_of(cell->bytes);
    }
    return found;
  }
  for (const auto& cell : run.inputs)
    found.lie.push_back(cell == nullptr || cell->parts.empty() ? nullptr : cell->sharding);
  if (!has_limit_) return found;
  for (size_t d = 0; d < devices_.size(); ++d) {
    int64_t others =
        devices_[d]->memory.stats().live_bytes - runtime::MemoryPool::size_of(backends_[d]->arena_bytes());
    for (const auto& cell : run.inputs) {
      if (cell == nullptr || d >= cell->parts.size() || cell->parts[d]->block == nullptr) continue;
      others -= runtime::MemoryPool::size_of(cell->parts[d]->bytes);
    }
    found.other_bytes = std::max(found.other_bytes, others);
  }
  return found;
}

void Engine::settle_moved() {
  for (auto& moved : moved_) {
    if (moved.cell.use_count() == 1 || !are_there(moved.parts)) continue;
    const std::lock_guard<std::mutex> guard(cells_lock_);
    moved.cell->parts = std::move(moved.parts);
    moved.cell->sharding = std::move(moved.sharding);
    moved.cell->block = nullptr;
  }
  moved_.clear();
  for (const auto& cell : made_again_) {
    const std::lock_guard<std::mutex> guard(cells_lock_);
    if (are_there(cell->parts)) {
      cell->recipe = nullptr;
    } else {
      cell->parts.clear();
    }
  }
  made_again_.clear();
}

// What a device has, where the host can read it; of what is wanted, from its first to its last byte.
BlockPtr Engine::on_host(const BlockPtr& block, const runtime::Region* wanted) {
  if (block->source == nullptr || block->bytes == 0) return block;
  BlockPtr copy = host_memory_.allocate(block->bytes);
  const auto [begin, end] =
      wanted != nullptr ? wanted->extent() : std::pair<int64_t, int64_t>{0, block->bytes};
  block->source->to_host(static_cast<char*>(copy->data) + begin, static_cast<char*>(block->data) + begin,
                         end - begin);
  return copy;
}

BlockPtr Engine::join(const std::vector<CellPtr>& parts, const runtime::Sharding& sharding,
                      const runtime::Region* wanted) {
  for (size_t d = 0; d < parts.size(); ++d) {
    if (sharding.has_all(d)) return on_host(parts[d]->block, wanted);
  }
  BlockPtr whole = host_memory_.allocate(sharding.bytes());
  const runtime::Region all{0, {}, sharding.bytes()};
  int64_t moved = 0;
  for (size_t d = 0; d < parts.size(); ++d) {
    if (!sharding.is_repeated(d) && sharding.part_bytes(d) > 0)
      moved +=
          sharding.paste(d, on_host(parts[d]->block)->data, whole->data, wanted != nullptr ? *wanted : all);
  }
  stats().bytes_joined.fetch_add(moved, std::memory_order_relaxed);
  return whole;
}

// A step has succeeded: its storages hold other values now. Who still has a cell of theirs kept it for the
// case that the step fails.
void Engine::let_go(const std::vector<CellPtr>& old) {
  const std::lock_guard<std::mutex> guard(cells_lock_);
  for (const auto& cell : old) cell->block = nullptr;
}

BlockPtr Engine::whole(const CellPtr& cell, const runtime::Region* wanted) {
  bool is_there = false;
  {
    const std::lock_guard<std::mutex> guard(cells_lock_);
    is_there = cell->recipe == nullptr && cell->state.load(std::memory_order_acquire) == Cell::State::kReady;
  }
  if (!is_there) make_again(cell);
  return joined(*cell, wanted);
}

BlockPtr Engine::joined(const Cell& cell, const runtime::Region* wanted) {
  std::vector<CellPtr> parts;
  ShardingPtr sharding;
  {
    const std::lock_guard<std::mutex> guard(cells_lock_);
    if (cell.parts.empty()) return cell.block;
    if (cell.is_empty()) return nullptr;
    parts = cell.parts;
    sharding = cell.sharding;
  }
  return join(parts, *sharding, wanted);
}

// Where this engine's device finds it: an engine before it left a value in parts.
void Engine::gather(const CellPtr& cell) {
  if (cell == nullptr || cell->parts.empty()) return;
  BlockPtr block = joined(*cell);
  const std::lock_guard<std::mutex> guard(cells_lock_);
  cell->block = std::move(block);
  cell->parts.clear();
  cell->sharding = nullptr;
}

// Copies a device's part of a value on the host to its memory.
void Engine::bring(const runtime::Block& whole, const runtime::Sharding& sharding, size_t device,
                   const runtime::Block& part) {
  if (part.source == nullptr) return sharding.cut(device, whole.data, part.data);
  if (sharding.has_all(device)) return part.source->to_device(part.data, whole.data, part.bytes);
  const BlockPtr staged = host_memory_.allocate(part.bytes);
  sharding.cut(device, whole.data, staged->data);
  part.source->to_device(part.data, staged->data, part.bytes);
}

// Whether a value lies in parts on these devices, and not on those of an engine before.
bool Engine::is_here(const Cell& cell) const {
  if (cell.parts.size() != devices_.size()) return false;
  for (size_t d = 0; d < devices_.size(); ++d) {
    const auto& block = cell.parts[d]->block;
    if (block != nullptr && block->data != nullptr && block->source != devices_[d]->memory.source())
      return false;
  }
  return true;
}

void Engine::execute_apart(const Trace& trace, runtime::Run& run, LoadedProgram& program,
                           const std::vector<CellPtr>& outputs) {
  auto shared = std::make_shared<Shared>();
  const size_t devices = devices_.size();
  shared->inputs.assign(devices, std::vector<CellPtr>(run.inputs.size()));
  shared->outputs.assign(devices, std::vector<CellPtr>(outputs.size()));
  shared->old.resize(devices);
  for (size_t i = 0; i < run.inputs.size(); ++i) {
    CellPtr& cell = run.inputs[i];
    if (cell == nullptr) continue;
    const ShardingPtr& wanted = program.inputs_lie[i];
    std::vector<CellPtr> parts;
    if (is_here(*cell) && *cell->sharding == *wanted) {
      parts = cell->parts;
    } else {
      for (size_t d = 0; d < devices; ++d) parts.push_back(std::make_shared<Cell>(wanted->part_bytes(d)));
      shared->cuts.push_back({joined(*cell), parts, wanted});
      if (cell.use_count() > 1) moved_.push_back({cell, parts, wanted});
    }
    for (size_t d = 0; d < devices; ++d) {
      if (trace.replaces(i)) shared->old[d].push_back(parts[d]);
      shared->inputs[d][i] = std::move(parts[d]);
    }
    // What nobody else holds is the devices' to let go of when they have read it.
    if (cell.use_count() == 1) cell = nullptr;
  }
  for (size_t o = 0; o < outputs.size(); ++o) {
    const auto& cell = outputs[o];
    if (cell == nullptr) continue;
    const std::lock_guard<std::mutex> guard(cells_lock_);
    if (cell->recipe != nullptr && run.id != 0) {
      // It was ready in name, and is promised again.
      cell->recipe = nullptr;
      cell->run_id = run.id;
      cell->state.store(Cell::State::kPending, std::memory_order_release);
    }
    cell->sharding = program.outputs_lie[o];
    for (size_t d = 0; d < devices; ++d) {
      cell->parts.push_back(std::make_shared<Cell>(cell->sharding->part_bytes(d)));
      shared->outputs[d][o] = cell->parts.back();
    }
  }
  run.execute_on = [this, &program, shared](runtime::Run& r, int device) {
    const auto d = static_cast<size_t>(device);
    if (status_) status_->begin_run(device);
    const auto start = Clock::now();
    const auto wait_times = [&] {
      return transport_ ? transport_->wait_times(device) : runtime::WaitTimes{};
    };
    const auto before = wait_times();
    const auto ended = [&] {
      const int64_t took = ns_since(start);
      const auto after = wait_times();
      const int64_t waited = after.waiting - before.waiting;
      publish(device, took - waited, waited);
      shared->took += took;
      shared->moved += after.moving - before.moving;
      shared->waited += waited;
      return ++shared->ended == devices_.size();
    };
    try {
      for (auto& cut : shared->cuts) {
        const CellPtr part = std::move(cut.parts[d]);
        part->block = devices_[d]->memory.allocate(part->bytes);
        if (part->bytes > 0) bring(*cut.whole, *cut.sharding, d, *part->block);
        part->state.store(Cell::State::kReady, std::memory_order_release);
      }
      program.executables[d]->run(shared->inputs[d], r.numbers, shared->outputs[d]);
      let_go(shared->old[d]);
    } catch (const OutOfSlots&) {
      ended();
      r.lacks_slots.store(true);
      throw;
    } catch (...) {
      ended();
      // What others meet who waited for a device without slots is no failure either.
      if (!shared->failed.exchange(true) && !r.lacks_slots.load())
        stats().failures.fetch_add(1, std::memory_order_relaxed);
      throw;
    }
    if (!ended()) return;
    const auto devices = static_cast<double>(devices_.size());
    const double seconds = static_cast<double>(shared->took) * 1e-9 / devices;
    stats().run_ns.fetch_add(static_cast<int64_t>(seconds * 1e9), std::memory_order_relaxed);
    if (!program.predicted || shared->failed.load()) return;
    const double moved = static_cast<double>(shared->moved) * 1e-9 / devices;
    const double waited = static_cast<double>(shared->waited) * 1e-9 / devices;
    measurements_->add(program.layout, program.predicted, {seconds - moved - waited, moved, waited});
  };
}

// Where it finds no slots for some rows, the run is queued once more, to begin with `execute`: nothing of it
// was written. What it reads is held for that, to the end of the run.
void Engine::allow_again(const std::shared_ptr<Trace>& trace, runtime::Run& run,
                         std::function<void(runtime::Run&)> execute) {
  run.again = [this, trace, execute = std::move(execute)](runtime::Run& r) {
    if (!r.lacks_slots.exchange(false)) return false;
    loader_->widen(*trace);
    stats().steps_run_again.fetch_add(1, std::memory_order_relaxed);
    {
      const std::lock_guard<std::mutex> guard(cells_lock_);
      for (const auto& cell : r.outputs) {
        if (cell == nullptr || cell->state.load(std::memory_order_acquire) == Cell::State::kReady) continue;
        cell->parts.clear();
        cell->sharding = nullptr;
      }
    }
    r.execute = execute;
    r.execute_on = nullptr;
    return true;
  };
}

}  // namespace moai::engine
