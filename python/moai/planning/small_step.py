"""A small model's training steps on this machine, where ops take longer than what they compute and move.

As a program, ``python -m moai.planning.small_step SECONDS``, it takes steps for about so long on the process's devices,
and prints what `taken` returns as JSON: their number is settled when a process begins.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import torch

import moai

from ..bench.llama import LlamaConfig
from . import MODELS, PlanModel, ops_in, optimizer_of, record_step, take_step

BATCH, SEQ = 8, 48
LAYERS = 3
STEPS_TOGETHER = 8
PROCESSES = 3


_Taken = TypeVar("_Taken")


def repeated(turn: Callable[[], _Taken], budget_s: float, most: int = sys.maxsize) -> list[_Taken]:
    """Return what as many turns say as fit in the budget, from three to `most`, after one to warm up."""
    turn()
    taken, end = [], time.perf_counter() + budget_s
    while len(taken) < 3 or (time.perf_counter() < end and len(taken) < most):
        taken.append(turn())
    return taken


def _model(layers: int) -> PlanModel:
    # As small as models that are tried out: products of some millions of operations, none of which fill a device.
    return PlanModel(LlamaConfig(96, layers, 6, 3, 256).build, MODELS["gpt2"].loss, torch.float32)


def recorded(layers: int = LAYERS) -> str:
    """Return the step as a graph's text."""
    return record_step(_model(layers), BATCH, SEQ)[0]


def taken(budget_s: float, layers: int = LAYERS) -> dict[str, float]:
    """Seconds of a step, and of the script's thread in it, on the devices of this process."""
    model = _model(layers)
    module = model.build().to("moai")
    optimizer, text = optimizer_of(module), torch.randint(256, (1 << 16,))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))

    def step() -> None:
        """What scripts usually do: a batch from the host, and a learning rate of its own."""
        places = torch.randint(len(text) - SEQ, (BATCH, 1)) + torch.arange(SEQ)
        take_step(model, module, optimizer, text[places].to("moai"))
        schedule.step()

    def turn() -> tuple[float, float]:
        begin, script = time.perf_counter(), time.thread_time()
        for _ in range(STEPS_TOGETHER):
            step()
        script = time.thread_time() - script
        moai.sync()
        return (time.perf_counter() - begin) / STEPS_TOGETHER, script / STEPS_TOGETHER

    steps, scripts = zip(*repeated(turn, budget_s), strict=True)
    return {"step_s": statistics.median(steps), "script_s": statistics.median(scripts)}


def taken_by(devices: int, budget_s: float) -> dict[str, float]:
    """Return the same on so many virtual devices, which share each batch: the median of processes of their own.

    Where threads of a process come to lie among the cores is settled once, and may make half of its time.
    """
    environment = {
        "MOAI_DEVICES": f"cpu:{devices}",
        "MOAI_PLAN": f"dp={devices}" if devices > 1 else "",
        "MOAI_CACHE": "off",
    }
    command = [sys.executable, "-m", "moai.planning.small_step", str(budget_s / PROCESSES)]
    found = []
    for _ in range(PROCESSES):
        done = subprocess.run(
            command, env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=True
        )
        found.append(json.loads(done.stdout))
    return sorted(found, key=lambda taken: taken["step_s"])[PROCESSES // 2]


def script_costs(budget_s: float) -> dict[str, float]:
    """Seconds of the script's thread for a step and for each op in it, from models of one layer and of some."""
    (few, short), (many, long) = (
        (ops_in(recorded(layers)), taken(budget_s / 2, layers)["script_s"]) for layers in (1, LAYERS)
    )
    each = max(1e-8, (long - short) / (many - few))
    return {"script_op_s": each, "script_step_s": max(1e-8, short - few * each)}


def op_overhead(step_s: float, predicted: Callable[[float], float]) -> float:
    """Return which gap between ops makes a step take so long; `predicted` says how long with a gap of so many seconds.

    1e-8 where the step is shorter than its ops without gaps.
    """
    none, some = predicted(0.0), predicted(1e-6)
    return max(1e-8, 1e-6 * (step_s - none) / (some - none))


if __name__ == "__main__":
    print(json.dumps(taken(float(sys.argv[1]))))
