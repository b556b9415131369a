#pragma once

#include <pybind11/pybind11.h>

namespace moai {

// `_C.configure_devices(…)`, and what `_C.stats()` tells of each device.
void bind_devices(pybind11::module_& m);
pybind11::list device_stats();
// `_C.rules(text)`, `_C.dims(text)`, …: the rules and factors of a graph, as plain values for the tests.
void bind_rules(pybind11::module_& m);
// `_C.plan_step(graph, cluster)`, `_C.cluster(name)`.
void bind_plan(pybind11::module_& m);
// `_C.solve(costs, edges)`, `_C.solve_within(…)`, `_C.assignment_problem(graph, …)`: the planner's solver,
// and what it is given for a step, as plain values for the tests.
void bind_solver(pybind11::module_& m);

// `_C.random_local_graphs(graph, mesh, seed, counts)`, …: what each device runs under a plan, for the tests.
void bind_local_graphs(pybind11::module_& m);
// `_C.run_node(graph, index, operands, numbers)`: a node's results as the CPU's kernels make them (`apart`:
// as those made of ATen's ops do, see kernels/cpu/apart.h), for the tests. What the node writes, it writes to
// these operands. `_C.samplers()`.
void bind_kernels(pybind11::module_& m);
// `_C.time_all_reduce(devices, bytes, rounds)`: for `moai calibrate`.
void bind_collectives(pybind11::module_& m);

}  // namespace moai
