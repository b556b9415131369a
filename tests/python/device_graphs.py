"""Runs the graphs of N devices in lock step on CPU tensors: collectives are done on lists of tensors.

This is what local graphs are held against before anything executes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from local_graphs import Machine, laid_out, read
from moai import _C

REDUCE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sum": lambda parts: parts.sum(0),
    "product": lambda parts: parts.prod(0),
    "max": lambda parts: parts.any(0) if parts.dtype == torch.bool else parts.amax(0),
    "min": lambda parts: parts.all(0) if parts.dtype == torch.bool else parts.amin(0),
}


def members(mesh: list[int], axes: list[int]) -> Iterator[list[int]]:
    """The groups of devices that differ in these axes alone."""
    devices = torch.arange(math.prod(mesh)).reshape(mesh)
    others = [a for a in range(len(mesh)) if a not in axes]
    yield from devices.permute(*others, *axes).reshape(-1, math.prod(mesh[a] for a in axes)).tolist()


def collective(op: str, args: list[list], group: list[int]) -> list[torch.Tensor]:
    """What each member of a group gets; `args` by member."""
    xs = [args[d][0] for d in group]
    rest = args[group[0]][2:]
    for d in group:
        assert args[d][1:] == args[group[0]][1:], (
            f"members of a group differ: {args[d][1:]}, {args[group[0]][1:]}"
        )
    if op == "moai.all_reduce":
        # A dtype of its own for sums of booleans would be an error in a plan.
        return [REDUCE[rest[0]](torch.stack(xs)).to(xs[0].dtype)] * len(group)
    dim, sizes = rest[:2]
    if op == "moai.all_gather":
        assert [x.size(dim) for x in xs] == sizes
        return [torch.cat(xs, dim)] * len(group)
    if op == "moai.reduce_scatter":
        return list(REDUCE[rest[2]](torch.stack(xs)).to(xs[0].dtype).split(sizes, dim))
    assert op == "moai.all_to_all", op
    to, joined = rest[2:]
    assert [x.size(to) for x in xs] == joined
    cut = [x.split(sizes, dim) for x in xs]
    return [torch.cat([parts[i] for parts in cut], to) for i in range(len(group))]


# By collective, how many arguments it has.
COLLECTIVES = {"moai.all_reduce": 3, "moai.all_gather": 4, "moai.reduce_scatter": 5, "moai.all_to_all": 6}


def collectives(op: str, args: list) -> list[tuple[str, list]]:
    """The node's collective, or those of a bucket, each with its own arguments."""
    if op != "moai.bucket":
        return [(op, args)]
    found, at = [], 0
    while at < len(args):
        count = COLLECTIVES[args[at]]
        found.append((args[at], args[at + 1 : at + 1 + count]))
        at += 1 + count
    return found


def part_of(x: torch.Tensor, dims: list[list[tuple[int, int, int]]]) -> torch.Tensor:
    """A device's part of a value; by dim, for each atom: (whole size, start, length)."""
    open_ = x.reshape([size for dim in dims for size, _, _ in dim])
    for d, (_, start, length) in enumerate(a for dim in dims for a in dim):
        open_ = open_.narrow(d, start, length)
    return open_.reshape([math.prod(length for _, _, length in dim) for dim in dims])


def joined(parts: list[torch.Tensor], places: list, like: torch.Tensor) -> torch.Tensor:
    """The whole of what devices hold; replicas must be equal."""
    whole = torch.zeros_like(like, memory_format=torch.contiguous_format)
    seen = torch.zeros(like.shape, dtype=torch.bool)
    for part, dims in zip(parts, places, strict=True):
        region, mask = whole, seen
        opened = region.view([size for dim in dims for size, _, _ in dim])
        opened_mask = mask.view(opened.shape)
        for d, (_, start, length) in enumerate(a for dim in dims for a in dim):
            opened, opened_mask = opened.narrow(d, start, length), opened_mask.narrow(d, start, length)
        value = part.reshape(opened.shape)
        if bool(opened_mask.any()):
            torch.testing.assert_close(value, opened.clone(), rtol=1e-10, atol=1e-10, equal_nan=True)
        opened.copy_(value)
        opened_mask.fill_(True)
    assert bool(seen.all()), "no device has some elements"
    return whole


def run_devices(plan: dict, inputs: list[torch.Tensor], numbers: list) -> list[list[torch.Tensor]]:
    """Runs the local graphs of a plan (`_C.random_local_graphs` …) side by side; outputs by device.

    A group meets when all its members have come to the same collective: other groups may be elsewhere by then.
    """
    graphs = [read(text) for text in plan["graphs"]]
    mesh = plan["mesh"]
    machines = []
    for d, g in enumerate(plan["of_device"]):
        own = [part_of(x, places[d]) for x, places in zip(inputs, plan["inputs"], strict=True)]
        machines.append(Machine(graphs[g], own, numbers))
    at = [0] * len(machines)
    while True:
        for d, machine in enumerate(machines):
            nodes = machine.graph.nodes
            while at[d] < len(nodes) and nodes[at[d]].op not in {*COLLECTIVES, "moai.bucket"}:
                machine.run(nodes[at[d]])
                at[d] += 1
        waiting = [
            m.graph.nodes[at[d]] if at[d] < len(m.graph.nodes) else None for d, m in enumerate(machines)
        ]
        if all(node is None for node in waiting):
            break
        met: set[int] = set()
        for d, node in enumerate(waiting):
            if node is None or d in met:
                continue
            calls = {d: collectives(node.op, [machines[d].resolve(a) for a in node.args])}
            (group,) = (g for g in members(mesh, calls[d][0][1][1]) if d in g)
            for other in set(group) - {d}:
                there = waiting[other]
                if there is not None:
                    calls[other] = collectives(there.op, [machines[other].resolve(a) for a in there.args])
            starts = [[(op, args[1]) for op, args in calls[m]] for m in group if m in calls]
            if len(starts) < len(group) or any(start != starts[0] for start in starts):
                continue
            for r, (op, _) in enumerate(calls[d]):
                args = [calls[m][r][1] if m in group else [] for m in range(len(machines))]
                for member, value in zip(group, collective(op, args, group), strict=True):
                    name, type_ = waiting[member].results[r]
                    assert list(value.shape) == type_.sizes, waiting[member].text
                    machines[member].values[name] = laid_out(value, type_)
                    machines[member].types[name] = type_
            met.update(group)
        assert met, "devices are out of step"
        at = [i + (d in met) for d, i in enumerate(at)]
    return [[m.values[o] for o in m.graph.outputs] for m in machines]


def bucketed(plan: dict) -> dict:
    """The plan with small collectives merged, as they run."""
    graphs = _C.bucketed_local_graphs(plan["graphs"], plan["of_device"], plan["mesh"], 1 << 18, 1 << 22)
    return {**plan, "graphs": graphs}


def check(plan: dict, expected: list[torch.Tensor], inputs: list[torch.Tensor], numbers: list) -> None:
    """The devices' outputs, put together, equal those of the whole graph within 1e-10."""
    by_device = run_devices(plan, inputs, numbers)
    for o, whole in enumerate(expected):
        got = joined([outputs[o] for outputs in by_device], plan["outputs"][o], whole)
        torch.testing.assert_close(
            got, whole, rtol=1e-10, atol=1e-10, equal_nan=True, msg=lambda m, o=o: f"output {o}: {m}"
        )
