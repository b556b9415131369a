#pragma once

#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "compile/chunk/chunk_losses.h"
#include "engine/choose.h"
#include "engine/trace.h"

namespace moai::engine {

// The graph that leaves `wanted` behind and no more, without what changes nothing.
ir::Graph simplified(ir::Graph graph, const std::vector<ir::ValueId>& wanted);

// What a launch on several devices finds there.
struct Surroundings {
  std::vector<runtime::ShardingPtr> lie;  // by input: where it lies; null where it is on the host or nowhere
  int64_t other_bytes = 0;                // of the fullest device, that the launch has no part in
};

// Makes traces' programs. Used by one thread at a time.
class Loader {
 public:
  // `backends`: by device; they outlive it. `is_apart`: see Note [Where values lie].
  Loader(const Settings& settings, bool is_apart, std::vector<std::unique_ptr<runtime::Backend>>& backends);

  // The trace's program for a launch with these numbers that wants these values (sorted); null where it has
  // none yet.
  LoadedProgram* find(Trace& trace, const std::vector<ir::ValueId>& wanted,
                      const std::vector<runtime::Number>& numbers) const;
  // A new one, which becomes one of the trace's.
  LoadedProgram& make(Trace& trace, const std::vector<ir::ValueId>& wanted,
                      const std::vector<runtime::Number>& numbers, const Surroundings& surroundings);

  // After a run of the trace's found no slots for some rows: drops its programs that send rows to experts,
  // for others with more.
  void widen(Trace& trace);

  // Plans a trace again that `program` (one of its own) serves, after its steps took other times than
  // predicted, and replaces the program where another plan promises to be faster.
  void reconsider(Trace& trace, LoadedProgram& program, const std::vector<runtime::Number>& numbers,
                  const Surroundings& surroundings, const Correction& correction);

 private:
  LoadedProgram on_one(Trace& trace, const std::vector<ir::ValueId>& wanted,
                       const std::vector<runtime::Number>& numbers);
  LoadedProgram on_several(Trace& trace, const std::vector<ir::ValueId>& wanted,
                           const std::vector<runtime::Number>& numbers, const Surroundings& surroundings);

  static ir::Graph canonical(Trace& trace, const std::vector<ir::ValueId>& wanted,
                             const std::vector<runtime::Number>& numbers,
                             std::vector<std::pair<int32_t, int64_t>>* offsets);
  ir::Graph in_chunks(Trace& trace, ir::Graph graph, const std::vector<runtime::Number>& numbers,
                      std::vector<std::pair<int32_t, int64_t>>* offsets) const;
  compile::DeviceGraphs in_chunks(const Trace& trace, const Choice& choice,
                                  const compile::DeviceGraphs& graphs) const;
  LoadedProgram lowered(const Trace& trace, const Choice& choice) const;
  LoadedProgram searched(const Trace& trace, const ir::Graph& graph, const Surroundings& surroundings);
  LoadedProgram fitting(const Trace& trace, const ir::Graph& graph, const Surroundings& surroundings);
  // Whether there is room for what the fullest device takes.
  bool fits(int64_t bytes, const Surroundings& surroundings) const;
  void make_ready(const Trace& trace, LoadedProgram* loaded) const;
  std::optional<LoadedProgram> from_cache(const Trace& trace, const ir::Graph& graph,
                                          const Surroundings& surroundings);

  uint64_t id_;  // of the programs that go together; an address may be used again
  std::vector<std::unique_ptr<runtime::Backend>>& backends_;
  const bool is_apart_;
  int64_t memory_bytes_;              // of each device; < 0: no limit
  const int64_t chunk_bytes_;         // see Settings
  std::unique_ptr<Chooser> chooser_;  // of several devices
  std::set<uint64_t> planned_structures_;
};

}  // namespace moai::engine
