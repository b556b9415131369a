// An engine on the fake backend, and what tests ask of it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "fake_backend.h"
#include "run_program.h"
#include "threads.h"

namespace moai::engine {

using compile::Bytes;
using runtime::Cell;
using runtime::CellPtr;
using State = Cell::State;
using Ids = std::vector<ir::ValueId>;

inline std::shared_ptr<Trace> trace_of(ir::Graph graph, std::vector<bool> donated = {}) {
  static std::atomic<uint64_t> next_id{1};
  auto trace = std::make_shared<Trace>();
  trace->id = next_id.fetch_add(1);
  trace->structure = ir::structure_hash(graph);
  trace->graph = std::move(graph);
  trace->donated = std::move(donated);
  return trace;
}

struct Launched {
  runtime::RunPtr run;
  std::vector<CellPtr> inputs;
  std::vector<CellPtr> cells;  // by held value
};

struct Device {
  std::shared_ptr<runtime::Journal> journal = std::make_shared<runtime::Journal>();
  Engine engine{Kind{[this](runtime::Device&, runtime::Transport*) {
                  return std::make_unique<runtime::FakeBackend>(journal);
                }},
                Settings{}};

  // Inputs as `Meaning` makes them.
  std::vector<CellPtr> inputs(const ir::Graph& graph) {
    std::vector<CellPtr> cells;
    for (size_t i = 0; i < graph.inputs().size(); ++i) {
      const ir::Type& type = graph.type(graph.inputs()[i]);
      cells.push_back(Cell::ready(journal->pool.allocate(type.bytes()), type.bytes()));
      shown(cells.back(), type).fill(compile::input_seed(i));
    }
    return cells;
  }

  static compile::Shown shown(const CellPtr& cell, const ir::Type& type) {
    return {static_cast<uint8_t*>(cell->block->data), cell->block->bytes, type, 0};
  }

  Launched launch(const std::shared_ptr<Trace>& trace, const Ids& held, std::vector<CellPtr> inputs,
                  const std::vector<int64_t>& numbers = {}) {
    Launched made{nullptr, inputs, {}};
    std::vector<Held> kept;
    for (const ir::ValueId value : held) {
      made.cells.push_back(std::make_shared<Cell>(trace->graph.type(value).bytes()));
      kept.push_back({value, made.cells.back()});
    }
    std::vector<runtime::Number> all(numbers.size());
    for (size_t n = 0; n < numbers.size(); ++n) all[n].i = numbers[n];
    made.run = engine.launch(trace, std::move(inputs), std::move(all), std::move(kept));
    return made;
  }
  Launched launch(const std::shared_ptr<Trace>& trace, const Ids& held) {
    return launch(trace, held, inputs(trace->graph));
  }

  // Keeps the worker from its queue until the gate is opened.
  void hold_back(Gate& gate) {
    auto run = std::make_shared<runtime::Run>();
    run->execute = [&gate](runtime::Run&) { gate.pass(); };
    engine.worker().submit(run);
  }

  // Waits for the run and tells how it ended.
  std::string error_of(const Launched& launched) {
    engine.worker().wait(*launched.run);
    return text_of(launched.run->error);
  }
};

inline std::vector<Bytes> meaning(ir::Graph graph, const Ids& held,
                                  const std::vector<int64_t>& numbers = {}) {
  graph.set_outputs(held);
  return compile::Meaning(graph, numbers).run();
}

// Whether every held value that was not let go is what the graph means.
inline bool holds(const Launched& launched, const ir::Graph& graph, const Ids& held,
                  const std::vector<int64_t>& numbers = {}) {
  const std::vector<Bytes> wanted = meaning(graph, held, numbers);
  for (size_t i = 0; i < held.size(); ++i) {
    const CellPtr& cell = launched.cells[i];
    if (cell == nullptr) continue;
    if (cell->state != State::kReady || cell->block == nullptr) return false;
    if (Device::shown(cell, graph.type(held[i])).elements() != wanted[i]) return false;
  }
  return true;
}

}  // namespace moai::engine
