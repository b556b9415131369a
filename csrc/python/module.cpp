#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include "engine/engine.h"
#include "engine/log.h"
#include "engine/measurements.h"
#include "engine/stats.h"
#include "ir/error.h"
#include "ir/graph.h"
#include "kernels/aten/placement.h"
#include "kernels/cpu/torch_profiler.h"
#include "python/bindings.h"
#include "record/device.h"
#include "record/device_ops.h"
#include "record/generator.h"
#include "record/hint.h"
#include "record/recorder.h"
#include "runtime/profiler.h"

namespace py = pybind11;

namespace moai {
namespace {

py::dict stats_dict() {
  const auto& s = engine::stats();
  const auto memory = engine::engine_exists() ? engine::engine().memory_stats() : runtime::MemoryStats{};
  py::dict out;
  out["ops"] = s.ops.load();
  out["ops_at_once"] = s.ops_at_once.load();
  out["ops_followed"] = s.ops_followed.load();
  out["cuts"] = s.cuts.load();
  out["cut_reasons"] = s.cut_reasons();
  out["at_once"] = s.at_once_ops();
  out["traces"] = s.traces.load();
  out["hits"] = s.hits.load();
  out["launches"] = s.launches.load();
  out["compiles"] = s.compiles.load();
  out["resizes"] = s.resizes.load();
  out["plans_searched"] = s.searches.load();
  out["plans_kept"] = s.kept_plans.load();
  out["losses_in_chunks"] = s.losses_in_chunks.load();
  out["plans_reconsidered"] = s.reconsidered.load();
  out["failures"] = s.failures.load();
  out["bytes_to_device"] = s.bytes_to_device.load();
  out["bytes_to_host"] = s.bytes_to_host.load();
  out["steps_run_again"] = s.steps_run_again.load();
  out["bytes_joined"] = s.bytes_joined.load();
  py::dict seconds;
  seconds["record_first_sight"] = static_cast<double>(s.record_ns.load()) * 1e-9;
  seconds["record_timed"] = static_cast<double>(s.call_ns.load()) * 1e-9;
  seconds["compile"] = static_cast<double>(s.compile_ns.load()) * 1e-9;
  seconds["run"] = static_cast<double>(s.run_ns.load()) * 1e-9;
  seconds["wait"] = static_cast<double>(s.wait_ns.load()) * 1e-9;
  out["seconds"] = seconds;
  out["live_bytes"] = memory.live_bytes;
  out["peak_bytes"] = memory.peak_bytes;
  out["devices"] = device_stats();
  out["cycle"] = engine::engine_exists() ? engine::engine().cycle() : std::vector<uint64_t>();
  out["scratch_peak_bytes"] = aten::scratch_peak_bytes();
  out["reserved_bytes"] = memory.reserved_bytes;
  return out;
}

}  // namespace
}  // namespace moai

PYBIND11_MODULE(_C, m) {
  using namespace moai;
  py::register_exception_translator([](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const Error& e) {
      PyErr_SetString(e.phase() == Phase::kConfig ? PyExc_ValueError : PyExc_RuntimeError, e.what());
    }
  });
  m.def("register_device", [] {
    record::register_device();
    record::register_ops();
    cpu::register_torch_profiler();
  });
  m.def("configure_log", &engine::configure_log);
  bind_devices(m);
  bind_rules(m);
  bind_plan(m);
  bind_local_graphs(m);
  bind_kernels(m);
  bind_solver(m);
  bind_collectives(m);
  m.def("time_calls", [](bool on) { engine::stats().time_calls.store(on); });
  m.def("set_hint", &record::set_hint);
  m.def("count_tokens", [](int64_t tokens) { engine::stats().tokens += tokens; });
  m.def("start_trace", &runtime::Profiler::start);
  m.def("stop_trace", [](const std::string& path) {
    record::synchronize(record::CutReason::kSync);
    runtime::Profiler::stop(path);
  });
  m.def("synchronize", [] { record::synchronize(record::CutReason::kSync); });
  m.def("mark_step", [](bool optimizer) {
    if (optimizer) ++engine::stats().steps;
    record::mark_step(optimizer ? record::CutReason::kOptimizerStep : record::CutReason::kSync);
  });
  m.def("stats", &stats_dict);
  m.def("reset_stats", [] { engine::stats().reset(); });
  m.def("reset_peak_memory", [] {
    if (engine::engine_exists()) engine::engine().reset_peak_memory();
  });
  m.def("trim_memory", [] {
    if (engine::engine_exists()) engine::engine().trim_memory();
  });
  // The plan of the last planned training step, and the seconds of its last runs; None before the first.
  m.def("explained", []() -> py::object {
    if (!engine::engine_exists()) return py::none();
    const auto [layout, predicted, runs] = engine::engine().measurements().explained();
    if (predicted == nullptr) return py::none();
    py::dict out;
    out["layout"] = layout;
    out["step_time_s"] = predicted->step_seconds;
    out["compute_s"] = predicted->compute_seconds;
    out["communicate_s"] = predicted->communicate_seconds;
    out["wait_s"] = predicted->wait_seconds;
    out["peak_bytes"] = predicted->peak_bytes;
    out["gap"] = predicted->mesh_gap;
    out["plan_s"] = predicted->plan_seconds;
    out["was_kept"] = predicted->was_kept;
    py::list measured;
    for (const auto& run : runs) {
      py::dict parts;
      parts["step_time_s"] = run.total();
      parts["compute_s"] = run.compute;
      parts["communicate_s"] = run.communicate;
      parts["wait_s"] = run.wait;
      measured.append(parts);
    }
    out["measured"] = measured;
    return out;
  });
  m.def("dump", [] { return engine::engine_exists() ? engine::engine().dump() : std::string(); });
  m.def("manual_seed", [](uint64_t seed) {
    at::Generator generator = record::default_generator();
    const std::lock_guard<std::mutex> guard(generator.mutex());
    generator.set_current_seed(seed);
  });
  m.def("default_generator", [] { return record::default_generator(); });
  m.def("initial_seed", [] { return record::default_generator().current_seed(); });
  m.def("get_rng_state", [] { return record::default_generator().get_state(); });
  m.def("set_rng_state", [](const at::Tensor& state) {
    at::Generator generator = record::default_generator();
    const std::lock_guard<std::mutex> guard(generator.mutex());
    generator.set_state(state);
  });
  m.def("set_dry", [](bool dry) {
    record::synchronize(record::CutReason::kSync);
    engine::engine().set_dry(dry);
  });
  m.def("dry_step", [] {
    record::synchronize(record::CutReason::kSync);
    const auto graph = engine::engine().dry_step();
    return graph.nodes().empty() ? std::string() : ir::print(graph);
  });
  // The values of that graph's numbers, by position.
  m.def("dry_numbers", [] {
    const auto [kinds, values] = engine::engine().dry_numbers();
    py::list out;
    for (size_t i = 0; i < values.size(); ++i) {
      runtime::Number number;
      number.i = values[i];
      if (kinds[i] == ir::NumberKind::kFloat) {
        out.append(number.f);
      } else {
        out.append(number.i);
      }
    }
    return out;
  });
  m.def("shut_down", [] {
    const py::gil_scoped_release release;
    engine::shut_down();
  });
}
