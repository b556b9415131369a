"""``moai calibrate``: what this machine reaches, measured and saved as a profile; ``here:N`` is N devices of it.

Virtual devices share the machine's cores and memory: each of N has an N-th of what was measured.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ..options import value

BAD_INPUT = 2
PRODUCTS = (256, 512, 1024, 2048)
COLLECTIVE_BYTES = (1 << 12, 1 << 16, 1 << 20, 1 << 24)
SIZES = ((128, 64), (512, 64), (1024, 64))  # of attention: tokens, width of a head
MEMORY_BYTES = 1 << 26
# Across hosts nothing was measured: ten gigabits a second, as of the profiles without a usual NIC.
NETWORK = {"name": "Ethernet", "latency_s": 1e-5, "bytes_per_s": 10e9 / 8 * 0.94, "start_s": 2e-5}


def profile_path() -> Path:
    """Where the profile is kept: MOAI_PROFILE, or moai/machine.json among the user's settings."""
    named = value("profile")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME", Path.home() / ".config")) / "moai" / "machine.json"


def _seconds(work: Callable[[], object], budget_s: float) -> float:
    """The median of as many calls as fit in the budget, three at least, after one to warm up."""
    work()
    taken, end = [], time.perf_counter() + budget_s
    while len(taken) < 3 or (time.perf_counter() < end and len(taken) < 50):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _products(dtype: torch.dtype, budget_s: float) -> dict[str, float]:
    """FLOP/s of square products, by size."""
    out = {}
    for size in PRODUCTS:
        a, b = torch.randn(size, size, dtype=dtype), torch.randn(size, size, dtype=dtype)
        result = torch.empty(size, size, dtype=dtype)
        out[str(size)] = 2 * size**3 / _seconds(lambda a=a, b=b, r=result: torch.mm(a, b, out=r), budget_s)
    return out


def _attend(query: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.scaled_dot_product_attention(query, query, query, is_causal=True)


def _attention(budget_s: float) -> dict[str, float]:
    """FLOP/s of causal attention, by tokens."""
    out = {}
    for tokens, width in SIZES:
        query = torch.randn(4, 8, tokens, width)
        flops = 4 * 8 * tokens * tokens * width * 4 / 2
        out[str(tokens)] = flops / _seconds(functools.partial(_attend, query), budget_s)
    return out


def _memory(budget_s: float) -> float:
    """Bytes/s that additions move: one reads and writes, the next reads twice and writes."""
    a = torch.randn(MEMORY_BYTES // 4)
    out = torch.empty_like(a)
    return 5 * MEMORY_BYTES / _seconds(lambda: torch.add(a, 1.5, out=out).add_(a), budget_s)


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


def _links(devices: int, rounds: int) -> dict[str, float]:
    """Seconds of an all-reduce between so many virtual devices, by bytes."""
    from moai import _C

    return {
        str(size): statistics.median(_C.time_all_reduce(devices, size, rounds)) for size in COLLECTIVE_BYTES
    }


def measure(budget_s: float = 40.0) -> dict:
    """Measure this machine for about so long, and return its profile."""
    each = budget_s / 24
    devices = max(2, min(4, os.cpu_count() or 2))
    single, half = _products(torch.float32, each), _products(torch.bfloat16, each)
    return {
        "moai_profile": 1,
        "made": datetime.datetime.now().isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "products_fp32_flops": single,
        "products_bf16_flops": half,
        "attention_flops": _attention(each),
        "memory_bytes_per_s": _memory(2 * each),
        "op_overhead_s": _op_overhead(2 * each),
        "all_reduce_devices": devices,
        "all_reduce_s": _links(devices, 15),
    }


def _link(profile: dict) -> dict:
    """A link that takes as long as the measured all-reduces: a start, and a rate for what is large."""
    count = profile["all_reduce_devices"]
    taken = {int(size): seconds for size, seconds in profile["all_reduce_s"].items()}
    small, large = taken[min(taken)], taken[max(taken)]
    # A ring of n sends 2 (n-1)/n of the bytes from each device.
    rate = 2 * (count - 1) / count * (max(taken) - min(taken)) / max(1e-9, large - small)
    return {
        "name": "shared memory",
        "latency_s": small / 4 / count,
        "start_s": small / 2,
        "bytes_per_s": rate,
    }


def cluster_of(profile: dict, devices: int, hosts: int = 1) -> dict:
    """`hosts` machines like the measured one, each as that many virtual devices, as docs/clusters.md has clusters."""
    best = {name: max(profile[f"products_{name}_flops"].values()) for name in ("fp32", "bf16")}
    usual = {name: statistics.median(profile[f"products_{name}_flops"].values()) for name in ("fp32", "bf16")}
    attention = statistics.median(profile["attention_flops"].values())
    kind = {
        "name": "here",
        "memory_bytes": int(profile["memory_bytes"] / devices),
        "flops_fp32": best["fp32"] / devices,
        "flops_bf16": best["bf16"] / devices,
        "flops_fp16": best["bf16"] / devices,
        "memory_bytes_per_s": profile["memory_bytes_per_s"] / devices,
        "op_overhead_s": profile["op_overhead_s"],
        "gemm_efficiency": min(1.0, usual["fp32"] / best["fp32"]),
        "attention_efficiency": min(1.0, attention / best["fp32"]),
        "memory_efficiency": 1,
        "overlap": 0,  # the cores that would carry messages compute
    }
    levels = [{**_link(profile), "size": devices}]
    if hosts > 1:
        levels.append({**NETWORK, "size": hosts})
    return {"name": f"here:{devices}" + (f"x{hosts}" if hosts > 1 else ""), "levels": levels, "kinds": [kind]}


def resolved(cluster: str) -> str:
    """A cluster's text, `here:N` and `here:NxH` replaced by the calibrated machine's JSON.

    Raises ValueError where there is no profile, or it cannot be read.
    """
    match = re.fullmatch(r"here:([1-9]\d*)(?:x([1-9]\d*))?", cluster)
    if match is None:
        if cluster == "here" or cluster.startswith("here:"):
            raise ValueError(
                f"cluster `{cluster}` does not say how many devices\n  would work: here:8, or here:8x4 for four such hosts"
            )
        return cluster
    path = profile_path()
    try:
        profile = json.loads(path.read_text())
        return json.dumps(cluster_of(profile, int(match[1]), int(match[2] or 1)))
    except FileNotFoundError:
        raise ValueError(
            f"cluster `{cluster}` needs this machine's profile, and {path} is not there\n  would work: moai calibrate"
        ) from None
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is no profile of moai calibrate ({error!r})\n  would work: moai calibrate, which makes it anew"
        ) from error


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``moai calibrate``."""
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help=f"where the profile goes ({profile_path()})"
    )
    parser.add_argument(
        "--seconds", type=float, default=40.0, metavar="N", help="about how long to measure (40)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure, save, print; return the exit status."""
    if not 0 < arguments.seconds <= 600:
        print(f"moai calibrate: --seconds {arguments.seconds}: would work: up to 600", file=sys.stderr)
        return BAD_INPUT
    profile = measure(arguments.seconds)
    path = arguments.output or profile_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(profile, indent=1) + "\n")
    except OSError as error:
        print(f"moai calibrate: cannot write {path}: {error.strerror}", file=sys.stderr)
        return BAD_INPUT
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
    print(f"op overhead   {profile['op_overhead_s'] * 1e6:.2f} us")
    reduces = "  ".join(
        f"{int(size) >> 10} KiB: {s * 1e6:.0f} us" for size, s in profile["all_reduce_s"].items()
    )
    print(f"all-reduce    of {profile['all_reduce_devices']} devices, {reduces}")
    print(f"saved         {path}; moai plan --cluster here:N is N devices of this machine")
    return 0
