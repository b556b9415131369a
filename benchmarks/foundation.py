"""The figures of one virtual CPU device, each beside what plain PyTorch does in the same run.

python benchmarks/foundation.py                # all rows, a few minutes on an idle machine
python benchmarks/foundation.py recorder tiny  # some
"""

from __future__ import annotations

import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import moai
import torch
import torch.nn.functional as F
from common import Figure, number, ratio, write
from moai import _C
from moai.bench.gpt2 import GPT2Config
from torch import nn


def tiny_side(device: str, fused: bool):
    """Return a function that takes one step of a 12-layer GPT of width 8 and reads nothing."""
    return gpt_side(GPT2Config(8, 12, 2, vocab=32, max_seq=16), 2, device, fused)


def gpt_side(config: GPT2Config, batch: int, device: str, fused: bool):
    """Return a function that takes one step of a GPT on sequences of its full length and reads nothing."""
    torch.manual_seed(0)
    model = config.build().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=fused or None)
    tokens = torch.randint(0, config.vocab, (batch, config.max_seq)).to(device)

    def step() -> None:
        loss = F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def inside_recorder(step, rounds: int) -> tuple[list[float], int]:
    """Return seconds inside the recorder for each op of a repeated step, by round, and how many ops it has."""
    for _ in range(5):
        step()
        moai.sync()
    values = []
    for _ in range(rounds):
        moai.reset_stats()
        _C.time_calls(True)
        step()
        _C.time_calls(False)
        stats = moai.stats()
        assert stats["ops"] == stats["ops_followed"], "the step was not followed"
        values.append(stats["seconds"]["record_timed"] / stats["ops"])
        moai.sync()
    return values, stats["ops"]


def recorder() -> list[Figure]:
    """Time inside the recorder, for each op of a repeated step."""
    values, ops = inside_recorder(tiny_side("moai", fused=True), 9)
    return [
        number("inside the recorder, repeated trace", [v * 1e6 for v in values], 1.5, "us an op", ops=ops)
    ]


def tiny() -> list[Figure]:
    """Host time of a step of tiny tensors against eager's whole step."""
    figures = []
    torch.set_num_threads(1)
    for fused, bound in ((True, 0.9), (False, 0.75)):
        eager, lazy = tiny_side("cpu", fused), tiny_side("moai", fused)
        taken = {"moai": [], "eager": []}
        for n in range(5 + 41):
            for name, step in (("eager", eager), ("moai", lazy)):
                wall, cpu = time.perf_counter(), time.thread_time()
                step()
                if n >= 5:
                    taken[name].append((time.perf_counter() - wall, time.thread_time() - cpu))
                moai.sync()  # outside the time: the figure is what the script's thread spends
        name = f"host time of a tiny step, {'fused' if fused else 'default'} AdamW"
        figures.append(ratio(name, taken, "moai", "eager", bound))
    return figures


def llama70b() -> list[Figure]:
    """Recording a whole step of transformers' Llama-70B, built on the device, without running it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8,
        vocab_size=128256, max_position_embeddings=8192,
    )  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with moai.dry_run():
        with torch.device("moai"):
            model = LlamaForCausalLM(config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        tokens = torch.zeros(8, 1024, dtype=torch.long, device="moai")

        def step() -> float:
            start = time.perf_counter()
            loss = model(tokens, labels=tokens).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return time.perf_counter() - start

        first = step()
        step()  # the optimizer's state exists from here on
        gc.collect()
        ops = moai.stats()["ops"]
        repeated = [step() for _ in range(7)]
        ops = (moai.stats()["ops"] - ops) // 7
        memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    return [
        number("Llama-70B, repeated step recorded", repeated, 0.15, "s", ops=ops),
        number("Llama-70B, first step recorded", [first], 2.0, "s"),
        number("Llama-70B, host memory", [memory], 1.0, "GiB"),
    ]


def counted_steps(steps: int) -> int:
    """Take tiny steps; return how many ops they recorded."""
    step = tiny_side("moai", fused=True)
    for _ in range(steps):
        step()
        moai.sync()
    return moai.stats()["ops"]


def instructions() -> list[Figure]:
    """Instructions inside the recorder for each op of a repeated step, counted by callgrind: free of noise."""
    counts = []
    with tempfile.TemporaryDirectory() as folder:
        for steps in (6, 12):
            out = Path(folder) / f"callgrind.{steps}"
            program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import foundation; print(foundation.counted_steps({steps}))"
            command = ["valgrind", "--tool=callgrind", "--collect-atstart=no", "--toggle-collect=moai::record::Recorder::record(*", f"--callgrind-out-file={out}", sys.executable, "-c", program]  # fmt: skip
            ran = subprocess.run(command, capture_output=True, text=True, check=True)
            ops = int(ran.stdout.strip().splitlines()[-1])
            total = next(
                line for line in out.read_text().splitlines() if line.startswith(("summary:", "totals:"))
            )
            counts.append((ops, int(total.split()[1])))
    (ops, first), (more_ops, second) = counts
    each = (second - first) / (more_ops - ops)
    return [Figure("inside the recorder, repeated trace", each, None, "lower", "instructions an op", each, each, {"ops": more_ops - ops})]  # fmt: skip


def main_job() -> list[Figure]:
    """The main job's small model against eager, same threads, fused AdamW."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.json"
        subprocess.run([sys.executable, "-m", "moai", "bench", "--model", "small", "--devices", "1", "--steps", "14", "--compare", "eager", "--json", str(path)], check=True)  # fmt: skip
        compared = json.loads(path.read_text())["compare"]
    speed, cpu = compared["speed_ratio"]["eager"], compared["cpu_seconds"]
    detail = {
        "largest_loss_difference": compared["loss_difference"]["eager"]["largest"],
        "moai_step_seconds": compared["step_seconds"]["moai"],
        "eager_step_seconds": compared["step_seconds"]["eager"],
        "cpu_seconds_ratio": cpu["moai"] / cpu["eager"],
    }
    return [Figure("small, fp32, speed against eager", speed["median"], 1.0, "higher", "x", speed["low"], speed["high"], detail)]  # fmt: skip


PEAK = """
import resource, sys, torch
torch.set_num_threads(2)
device = sys.argv[1]
import moai
from moai.bench.models import MODELS
import torch.nn.functional as F
torch.manual_seed(0)
model = MODELS["small"].config.build().to(device)
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for step in range(8):
    tokens = torch.randint(0, 256, (8, 257))
    x, y = tokens[:, :-1].to(device), tokens[:, 1:].to(device)
    loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    loss.item()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def peak_memory() -> list[Figure]:
    """Peak resident memory of eight steps of the small model, above what the imports and the weights need."""
    peaks = {"moai": [], "cpu": []}
    for _ in range(5):
        for device in peaks:
            out = subprocess.run(
                [sys.executable, "-c", PEAK, device], capture_output=True, text=True, check=True
            )
            peaks[device].append(float(out.stdout.strip()))
    values = [a / b for a, b in zip(peaks["moai"], peaks["cpu"], strict=True)]
    detail = {"moai_mib": sorted(peaks["moai"])[2], "eager_mib": sorted(peaks["cpu"])[2]}
    name = "peak memory of the small model's steps against eager"
    return [number(name, values, 1.0, "x", **detail)]


COLD = """
import sys, time
start = time.perf_counter()
import torch
import torch.nn.functional as F
from moai.bench.gpt2 import GPT2Config
torch.set_num_threads(2)
torch.manual_seed(0)
model = GPT2Config(768, 12, 12, vocab=50257).build()
begin = time.perf_counter()
if sys.argv[1] == "moai":
    model = model.to("moai")
def loss_of(model, x, y):
    return F.cross_entropy(model(x).flatten(0, 1), y.flatten())
if sys.argv[1] == "compile":
    loss_of = torch.compile(loss_of)
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
for step in range(2):
    tokens = torch.randint(0, 50257, (1, 65)).to("moai" if sys.argv[1] == "moai" else "cpu")
    loss = loss_of(model, tokens[:, :-1], tokens[:, 1:])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    loss.item()
print(time.perf_counter() - begin)
"""


def cold_start() -> list[Figure]:
    """GPT-2 124M: the first two steps, everything included, against torch.compile with an empty cache."""
    taken = {"moai": [], "compile": []}
    for _ in range(5):
        for side in taken:
            with tempfile.TemporaryDirectory() as cache:
                environment = {"TORCHINDUCTOR_CACHE_DIR": cache, "TRITON_CACHE_DIR": cache}
                out = subprocess.run([sys.executable, "-c", COLD, side], capture_output=True, text=True, check=True, env=os.environ | environment)  # fmt: skip
            taken[side].append((float(out.stdout.strip().splitlines()[-1]), 0.0))
    return [
        ratio(
            "GPT-2 124M, first two steps, against torch.compile's cold start", taken, "moai", "compile", 0.15
        )
    ]


def new_length() -> list[Figure]:
    """GPT-2 124M: a sequence length not seen before, above a plain step of that length."""
    torch.manual_seed(0)
    model = GPT2Config(768, 12, 12, vocab=50257).build().to("moai")
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step(length: int) -> float:
        tokens = torch.randint(0, 50257, (1, length + 1)).to("moai")
        start = time.perf_counter()
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        return (time.perf_counter() - start) * 1e3

    # Longest first, so that the arena does not grow inside the figure.
    for length in (64, 64, 64, 63, 63, 62, 62):
        step(length)
    above = []
    for length in range(61, 46, -1):
        new = step(length)
        above.append(new - min(step(length) for _ in range(3)))
    return [
        number(
            "GPT-2 124M, a new sequence length above a plain step",
            above,
            50.0,
            "ms",
            compiles=moai.stats()["compiles"],
        )
    ]


def compiles() -> list[Figure]:
    """Compiles over 1,000 steps with a schedule, a log line each 10 and an evaluation each 100."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 4)).to("moai")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
    before = moai.stats()
    for step in range(1000):
        x = torch.randn(8, 16).to("moai")
        loss = model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 10 == 0:
            loss.item()
        if step % 100 == 0:
            with torch.no_grad():
                model(torch.randn(8, 16).to("moai")).mean().item()
    after = moai.stats()
    count = after["compiles"] - before["compiles"]
    return [
        number(
            "compiles over 1,000 steps",
            [float(count)],
            4.0,
            "compiles",
            traces=after["traces"] - before["traces"],
        )
    ]


ROWS = {
    "recorder": recorder,
    "instructions": instructions,
    "tiny": tiny,
    "llama70b": llama70b,
    "main_job": main_job,
    "peak_memory": peak_memory,
    "new_length": new_length,
    "compiles": compiles,
    "cold_start": cold_start,
}


def main() -> None:
    """Run the rows that the command line names, or all, each in a process of its own."""
    names = sys.argv[1:] or list(ROWS)
    for name in names:
        if name not in ROWS:
            sys.exit(f"unknown row '{name}': choose from {', '.join(ROWS)}")
    if len(names) == 1:
        write(names[0], ROWS[names[0]]())
        return
    failed = [
        name for name in names if subprocess.run([sys.executable, __file__, name], check=False).returncode
    ]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
