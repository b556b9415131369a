"""The figures of one GPU: each row beside eager and torch.compile, in one process of a few minutes.

python benchmarks/gpu.py                       # every row that results/gpu_*.json does not have at this commit
python benchmarks/gpu.py swiglu gpt2-1024      # some, measured anew
python benchmarks/gpu.py --list

A row that ends is written at once, so that a run which is broken off goes on where it was. Without a GPU it
refuses, and says why there is none.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import moai
import torch
import torch.nn.functional as F
from common import RESULTS, Figure, machine, ratio, write
from moai import _C
from moai.bench.models import create, named

ROUNDS = 7
PEERS = ("eager", "compile", "max-autotune")
GIB = 2**30


def wait(device: str) -> None:
    moai.sync() if device == "moai" else torch.cuda.synchronize()


def timed(step: Callable[[], object], device: str) -> float:
    """Seconds of one step, from an idle device to an idle device."""
    wait(device)
    start = time.perf_counter()
    step()
    wait(device)
    return time.perf_counter() - start


def compiled(function: Callable, side: str) -> Callable:
    if side == "compile":
        return torch.compile(function)
    return torch.compile(function, mode="max-autotune") if side == "max-autotune" else function


def in_turn(sides: dict[str, Callable[[], object]]) -> dict[str, list[tuple[float, float]]]:
    """Wall seconds of each side, round by round (the second number of a pair is for figures of the CPU)."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for count in range(3 + ROUNDS):
        for name, step in sides.items():
            seconds = timed(step, "moai" if name == "moai" else "cuda")
            if count >= 3:
                taken[name].append((seconds, seconds))
    return taken


# ---- Kernels that memory binds


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return F.silu(gate) * up


def rms_norm(x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    x = x + residual
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def softmax(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x * 0.125 + bias, -1)


def gelu(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.gelu(x, approximate="tanh") + y


def kernel(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> list[Figure]:
    """Ten calls on 64 Mi elements of bf16, against a copy's bandwidth and the peers' time."""
    calls, rows, columns = 10, 16384, 4096
    torch.manual_seed(0)
    x, y = (torch.randn(rows, columns, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    ours = x.cpu().to("moai"), y.cpu().to("moai")
    target = torch.empty_like(x)

    def repeat(call: Callable, *operands: torch.Tensor) -> Callable[[], None]:
        def step() -> None:
            results = [call(*operands) for _ in range(calls)]
            del results

        return step

    # What is not held is not computed, and equal calls are one: ours are held, of sums that are apart.
    kept: list[torch.Tensor] = []

    def ours_step() -> None:
        kept[:] = [function(ours[0], ours[1] + n) for n in range(calls)]

    sides = {side: repeat(compiled(function, side), x, y) for side in PEERS}
    sides["moai"] = ours_step
    sides["copy"] = repeat(lambda a: target.copy_(a), x)
    taken = in_turn(sides)
    torch.testing.assert_close(kept[0].cpu(), function(x, y).cpu(), rtol=2e-2, atol=2e-2)
    # A copy reads and writes once; the kernels read two tensors and write one.
    copied = {"moai": [(a / 1.5, b / 1.5) for a, b in taken["moai"]], "copy": taken["copy"]}
    name = function.__name__
    figures = [ratio(f"{name}: bandwidth over a copy's", copied, "moai", "copy", 0.8, "higher")]
    return figures + [
        ratio(f"{name}: speed against {side}", taken, "moai", side, 1.0, "higher") for side in PEERS
    ]


# ---- Training


def trainer(model_name: str, device: str, side: str, batch: int, seq: int) -> Callable[[], torch.Tensor]:
    model = create(model_name, torch.device(device), 0).to(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    vocab = named(model_name).config.vocab
    tokens = torch.randint(0, vocab, (batch, seq + 1), generator=torch.Generator().manual_seed(0)).to(device)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    loss_of = compiled(lambda x, y: F.cross_entropy(model(x).float().flatten(0, 1), y.flatten()), side)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(inputs, targets)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def side_of(model_name: str, side: str, batch: int, seq: int) -> dict:
    """One side in a process of its own, since its memory is what is measured too."""
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[1]); import gpu; "
        "print(json.dumps(gpu.run_side(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))))"
    )
    arguments = [str(Path(__file__).parent), model_name, side, str(batch), str(seq)]
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    if run.returncode != 0:
        raise RuntimeError(f"{model_name}, {side}: {run.stderr.strip().splitlines()[-1:]}")
    return json.loads(run.stdout.splitlines()[-1])


def run_side(model_name: str, side: str, batch: int, seq: int) -> dict:
    moai.configure(devices="cuda:0")
    device = "moai" if side == "moai" else "cuda"
    step = trainer(model_name, device, side, batch, seq)
    first = timed(step, device)
    for _ in range(3):
        timed(step, device)
    torch.cuda.reset_peak_memory_stats()
    moai._C.reset_peak_memory()
    seconds = [timed(step, device) for _ in range(ROUNDS)]
    peak = moai.stats()["peak_bytes"] if device == "moai" else torch.cuda.max_memory_allocated()
    return {"first": first, "seconds": seconds, "peak_bytes": peak, "loss": step().item()}


def training(model_name: str, batch: int, seq: int, against_compile: float) -> list[Figure]:
    sides = {side: side_of(model_name, side, batch, seq) for side in ("moai", *PEERS)}
    name = f"{model_name}, bf16, {batch} x {seq}"
    spread = max(abs(sides[side]["loss"] - sides["eager"]["loss"]) for side in PEERS)
    assert abs(sides["moai"]["loss"] - sides["eager"]["loss"]) < max(4 * spread, 0.05), "the losses differ"
    taken = {side: [(s, s) for s in one["seconds"]] for side, one in sides.items()}
    first = {side: [(one["first"], one["first"])] for side, one in sides.items()}
    peaks = {side: [(one["peak_bytes"] / GIB,) * 2] for side, one in sides.items()}
    rate = batch * seq / statistics.median(sides["moai"]["seconds"])
    return [
        ratio(
            f"{name}: speed against torch.compile",
            taken,
            "moai",
            "compile",
            against_compile,
            "higher",
            tokens_per_second=rate,
        ),
        ratio(f"{name}: speed against max-autotune", taken, "moai", "max-autotune", 1.0, "higher"),
        ratio(f"{name}: speed against eager", taken, "moai", "eager", 1.0, "higher"),
        ratio(f"{name}: peak memory against eager's", peaks, "moai", "eager", 0.7),
        ratio(f"{name}: first step against torch.compile's", first, "moai", "compile", 0.3),
    ]


ROWS: dict[str, Callable[[], list[Figure]]] = {
    **{function.__name__: (lambda f=function: kernel(f)) for function in (swiglu, rms_norm, softmax, gelu)},
    "gpt2-1024": lambda: training("gpt2", 16, 1024, 1.0),
    "llama3-1b-1024": lambda: training("llama3-1b", 4, 1024, 1.15),
    "llama3-8b-1024": lambda: training("llama3-8b", 4, 1024, 1.15),
    "llama3-8b-8192": lambda: training("llama3-8b", 1, 8192, 1.15),
}


def is_there(row: str) -> bool:
    """Whether this commit's figures are on record."""
    path = RESULTS / f"gpu_{row}.json"
    return path.exists() and json.loads(path.read_text())["machine"]["commit"] == machine()["commit"]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "rows", nargs="*", metavar="ROW", help="rows to measure anew (default: what is missing)"
    )
    parser.add_argument("--list", action="store_true", help="say which rows there are")
    options = parser.parse_args()
    if options.list:
        print("\n".join(ROWS))
        return 0
    unknown = [row for row in options.rows if row not in ROWS]
    if unknown:
        parser.error(f"no row is called {unknown[0]}; rows: {', '.join(ROWS)}")
    why = _C.why_no_gpu()
    if why:
        print(f"benchmarks/gpu.py needs a GPU, and {why}", file=sys.stderr)
        return 2
    moai.configure(devices="cuda:0")
    failed = False
    for row in options.rows or [row for row in ROWS if not is_there(row)]:
        try:
            figures = ROWS[row]()
        except Exception as error:  # the other rows are worth having
            print(f"FAILED {row}: {error}", file=sys.stderr)
            failed = True
            continue
        for figure in figures:
            figure.detail["gpu"] = torch.cuda.get_device_name(0)
            figure.detail["command"] = f"python benchmarks/gpu.py {row}"
        write(f"gpu_{row}", figures)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
