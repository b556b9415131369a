"""``moai calibrate``: what this machine reaches, measured and saved as a profile (``moai.machine`` reads it).

Where MOAI_DEVICES is ``cuda`` one GPU is measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ..machine import cluster_of
from ..options import parse_devices, profile_path, value
from . import plan_graph, small_step

BAD_INPUT = 2
COLLECTIVE_BYTES = (1 << 12, 1 << 16, 1 << 20, 1 << 24)


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is measured, and on how much of it."""

    kind: str = "cpu"  # as MOAI_DEVICES has it
    device: str = "cpu"  # torch's
    name: str = ""  # of a GPU
    memory_bytes: int = 0
    wait: Callable[[], None] = lambda: None  # until all that was begun is done
    calls: int = 1  # begun before each wait
    products: tuple[int, ...] = (256, 512, 1024, 2048)
    tokens: tuple[int, ...] = (128, 512, 1024)  # of attention
    attention: torch.dtype = torch.float32
    bytes_moved: int = 1 << 26
    counts: tuple[int, ...] = (1, 2, 4)  # of virtual devices


def the_cpu() -> Subject:
    """Return this machine's cores and memory."""
    return Subject(memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def the_gpu(index: int) -> Subject:
    """Return the GPU with this number among the visible ones."""
    found = torch.cuda.get_device_properties(index)
    return Subject(
        kind="cuda",
        device=f"cuda:{index}",
        name=found.name,
        memory_bytes=found.total_memory,
        wait=functools.partial(torch.cuda.synchronize, index),
        calls=20,
        products=(1024, 2048, 4096, 8192),
        tokens=(1024, 4096, 8192),
        attention=torch.bfloat16,
        bytes_moved=1 << 30,
    )


def subject() -> Subject:
    """Return what MOAI_DEVICES names.

    Raises ValueError where it names GPUs, and there is none.
    """
    from moai import _C

    devices = parse_devices("MOAI_DEVICES", value("devices"))
    if devices.kind != "cuda":
        return the_cpu()
    why = _C.why_no_gpu()
    if why:
        raise ValueError(f"MOAI_DEVICES is `{value('devices')}`, and {why}\n  would work: MOAI_DEVICES=cpu")
    return the_gpu(devices.indices[0] if devices.indices else 0)


def _seconds(
    work: Callable[[], object], budget_s: float, wait: Callable[[], None] = lambda: None, calls: int = 1
) -> float:
    """Of one call: the median of as many turns of `calls` as fit in the budget, three at least, after one to warm up."""

    def turn() -> float:
        start = time.perf_counter()
        for _ in range(calls):
            work()
        wait()
        return (time.perf_counter() - start) / calls

    return statistics.median(small_step.repeated(turn, budget_s, most=50))


def _products(on: Subject, dtype: torch.dtype, budget_s: float) -> dict[str, float]:
    """FLOP/s of square products, by size."""
    out = {}
    for size in on.products:
        a, b, result = (torch.randn(size, size, device=on.device).to(dtype) for _ in range(3))
        multiply = functools.partial(torch.mm, a, b, out=result)
        out[str(size)] = 2 * size**3 / _seconds(multiply, budget_s, on.wait, on.calls)
    return out


def _attend(query: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.scaled_dot_product_attention(query, query, query, is_causal=True)


def _attention(on: Subject, budget_s: float) -> dict[str, float]:
    """FLOP/s of causal attention, by tokens."""
    out, width = {}, 64
    for tokens in on.tokens:
        query = torch.randn(4, 8, tokens, width, device=on.device).to(on.attention)
        flops = 4 * 8 * tokens * tokens * width * 4 / 2
        out[str(tokens)] = flops / _seconds(functools.partial(_attend, query), budget_s, on.wait, on.calls)
    return out


def _memory(on: Subject, budget_s: float) -> float:
    """Bytes/s that additions move: one reads and writes, the next reads twice and writes."""
    a = torch.randn(on.bytes_moved // 4, device=on.device)
    out = torch.empty_like(a)

    def add() -> None:
        torch.add(a, 1.5, out=out).add_(a)

    return 5 * on.bytes_moved / _seconds(add, budget_s, on.wait, on.calls)


def _host_link(on: Subject, budget_s: float) -> float:
    """Bytes/s of copies to the host's pinned memory."""
    here = torch.ones(on.bytes_moved // 4, device=on.device)
    there = torch.empty(here.shape, pin_memory=torch.cuda.is_available())
    copy = functools.partial(there.copy_, here, non_blocking=True)
    return on.bytes_moved / _seconds(copy, budget_s, on.wait, on.calls)


def _op_overhead(budget_s: float) -> float:
    """Seconds from one tiny op to the next, inside a step on the device."""
    import moai

    x = torch.ones(8, device="moai")

    def chain(length: int) -> None:
        y = x
        for i in range(length):
            y = torch.sin(y) if i % 2 else torch.cos(y)
        moai.sync()
        assert y.shape == x.shape

    short, long = 100, 1100
    return max(
        1e-8,
        (_seconds(lambda: chain(long), budget_s) - _seconds(lambda: chain(short), budget_s)) / (long - short),
    )


def _gaps(profile: dict, counts: tuple[int, ...], budget_s: float) -> dict:
    """Of virtual devices: seconds from one op to the next, by how many there are.

    They are what a small model's step takes beyond what the profile explains: ops too small to fill a device, threads
    that wake, and cores that devices and the script share.
    """
    graph = small_step.recorded()

    def predicted(count: int, gap_s: float) -> float:
        cluster = cluster_of({**profile, "op_overhead_s": gap_s}, count)
        pin = f"dp={count}" if count > 1 else ""
        return plan_graph(graph, json.dumps(cluster), pin)["step_time_s"]

    gaps = {}
    for count in counts:
        taken = small_step.taken_by(count, budget_s / len(counts))
        devices_s = taken["step_s"] - taken["script_s"]
        gaps[str(count)] = small_step.op_overhead(devices_s, functools.partial(predicted, count))
    return {"op_overheads_s": gaps}


def _links(devices: int, rounds: int) -> dict[str, float]:
    """Seconds of an all-reduce between so many virtual devices, by bytes."""
    from moai import _C

    return {
        str(size): statistics.median(_C.time_all_reduce(devices, size, rounds)) for size in COLLECTIVE_BYTES
    }


def measure(on: Subject, budget_s: float = 40.0) -> dict:
    """Measure it for about so long, and return its profile."""
    each = budget_s / 27
    profile = {
        "moai_profile": 1,
        "made": datetime.datetime.now().isoformat(timespec="seconds"),
        "devices": on.kind,
        "memory_bytes": on.memory_bytes,
        "products_fp32_flops": _products(on, torch.float32, each),
        "products_bf16_flops": _products(on, torch.bfloat16, each),
        "attention_flops": _attention(on, each),
        "memory_bytes_per_s": _memory(on, 2 * each),
        **small_step.script_costs(2 * each),
    }
    if on.kind == "cuda":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / max(1, torch.cuda.device_count())
        return {
            **profile,
            "op_overhead_s": _op_overhead(2 * each),
            "gpu": on.name,
            "host_bytes_per_s": _host_link(on, each),
            "host_memory_bytes": memory,
        }
    devices = max(2, min(4, os.cpu_count() or 2))
    profile |= {
        "cores": os.cpu_count(),
        "all_reduce_devices": devices,
        "all_reduce_s": _links(devices, 15),
    }
    return profile | _gaps(profile, on.counts, 12 * each)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``moai calibrate``."""
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help=f"where the profile goes ({profile_path()})"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=40.0,
        metavar="N",
        help="about how long to measure, starts of processes apart (40)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure, save, print; return the exit status."""
    if not 0 < arguments.seconds <= 600:
        print(f"moai calibrate: --seconds {arguments.seconds}: would work: up to 600", file=sys.stderr)
        return BAD_INPUT
    try:
        on = subject()
    except ValueError as error:
        print(f"moai calibrate: {error}", file=sys.stderr)
        return BAD_INPUT
    try:
        profile = measure(on, arguments.seconds)
    except subprocess.CalledProcessError as error:
        print(f"moai calibrate: a step on virtual devices failed: {' '.join(error.cmd)}", file=sys.stderr)
        return BAD_INPUT
    path = arguments.output or profile_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(profile, indent=1) + "\n")
    except OSError as error:
        print(f"moai calibrate: cannot write {path}: {error.strerror}", file=sys.stderr)
        return BAD_INPUT
    if on.name:
        print(f"measured      {on.device}, {on.name}")
    for name in ("fp32", "bf16"):
        rates = profile[f"products_{name}_flops"]
        print(
            f"products {name:<4} "
            + "  ".join(f"{size}: {rate / 1e9:.1f} GFLOP/s" for size, rate in rates.items())
        )
    print(
        "attention     "
        + "  ".join(f"{size}: {rate / 1e9:.1f} GFLOP/s" for size, rate in profile["attention_flops"].items())
    )
    print(f"memory        {profile['memory_bytes_per_s'] / 1e9:.1f} GB/s")
    gaps = profile.get("op_overheads_s") or {"1": profile["op_overhead_s"]}
    print(
        "op overhead   "
        + "  ".join(f"{count}: {gap * 1e6:.2f} us" for count, gap in gaps.items())
        + " by devices"
    )
    print(
        f"script        {profile['script_op_s'] * 1e6:.2f} us an op, {profile['script_step_s'] * 1e3:.2f} ms a step"
    )
    if "all_reduce_s" in profile:
        reduces = "  ".join(
            f"{int(size) >> 10} KiB: {s * 1e6:.0f} us" for size, s in profile["all_reduce_s"].items()
        )
        print(f"all-reduce    of {profile['all_reduce_devices']} devices, {reduces}")
    else:
        print("all-reduce    not measured between GPUs: plans have PCIe's figures")
    print(f"saved         {path}; moai plan --cluster here:N is N devices of this machine")
    return 0
