"""What a repeated step costs the script's thread on 8 devices, against 1: recording and launching, not running.

python benchmarks/host_time.py       # 7 pairs of processes, a few minutes

The script waits for each step outside the time, so that its thread and the devices do not share cores; CPU-seconds are
the thread's own. Bound: 1.2.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import ratio, write

BOUND = 1.2
ROUNDS, WARMUP, STEPS = 7, 8, 61


def measure(devices: str) -> tuple[float, float]:
    """Return wall and thread seconds of a step in a process of its own."""
    environment = os.environ | {"MOAI_DEVICES": devices, "MOAI_CACHE": "off"}
    command = [sys.executable, str(Path(__file__)), "side"]
    out = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return tuple(json.loads(out.stdout.splitlines()[-1]))


def side() -> None:
    """Print the medians of this process's steps."""
    import moai
    from foundation import tiny_side

    step = tiny_side("moai", fused=True)
    taken = []
    for n in range(WARMUP + STEPS):
        wall, cpu = time.perf_counter(), time.thread_time()
        step()
        if n >= WARMUP:
            taken.append((time.perf_counter() - wall, time.thread_time() - cpu))
        moai.sync()
    print(json.dumps([statistics.median(t[clock] for t in taken) for clock in (0, 1)]))


def main() -> None:
    taken: dict[str, list] = {"eight": [], "one": []}
    sides = {"eight": "cpu:8", "one": "cpu:1"}
    for number in range(ROUNDS):
        for name in list(sides) if number % 2 else list(sides)[::-1]:
            taken[name].append(measure(sides[name]))
    name = "host time of a repeated tiny step on 8 devices against 1"
    write("host_time", [ratio(name, taken, "eight", "one", BOUND, steps=STEPS)])


if __name__ == "__main__":
    side() if sys.argv[1:] == ["side"] else main()
