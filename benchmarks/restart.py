"""A second start of the same training: how long it plans and compiles when the first one kept its plans.

python benchmarks/restart.py             # 5 pairs of processes on 4 devices, some minutes
python benchmarks/restart.py small 3     # another model of moai bench, fewer pairs

Each process trains a few steps of the main job. The first of a pair finds an empty cache, the second what the first
kept; both must end with the same loss. Seconds are all that moai spent on planning and compiling, every trace's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

from common import Figure, number, ratio, write

BOUND_S = 1.0
DEVICES = "cpu:4"
STEPS = 3
CODE = """
import json, sys, time, moai
from moai.bench.options import Settings, resolve
from moai.bench.text import read_text
from moai.bench.trainer import Trainer

settings = resolve(Settings(model=sys.argv[1], steps=int(sys.argv[2])))
trainer = Trainer(settings, read_text(None), "moai")
losses = [trainer.step().item() for _ in range(settings.steps)]
moai.sync()
found = moai.stats()
print(json.dumps([found["seconds"]["compile"], losses[-1], found["plans_searched"], found["plans_kept"]]))
"""


def start(model: str, cache: str) -> tuple[float, float, int, int]:
    """Seconds of planning and compiling, last loss, plans searched and kept of one process."""
    environment = os.environ | {"MOAI_DEVICES": DEVICES, "MOAI_CACHE": cache}
    command = [sys.executable, "-c", CODE, model, str(STEPS)]
    run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return tuple(json.loads(run.stdout))


def figures(model: str, pairs: int) -> list[Figure]:
    """Seconds of the second start, and what it is of the first's."""
    taken: dict[str, list] = {"first": [], "second": []}
    for _ in range(pairs):
        with tempfile.TemporaryDirectory() as cache:
            first, second = start(model, cache), start(model, cache)
        assert second[2] == 0 and second[3] == first[2] > 0, f"plans: {first[2:]} then {second[2:]}"
        assert first[1] == second[1], f"the losses differ: {first[1]} and {second[1]}"
        taken["first"].append((first[0], 0))
        taken["second"].append((second[0], 0))
    name = f"{model} on {DEVICES}, plan and compile at a second start"
    seconds = number(name, [s for s, _ in taken["second"]], BOUND_S, "s", plans=second[3])
    return [seconds, ratio(f"{name}, against the first", taken, "second", "first", 1)]


if __name__ == "__main__":
    words = [*sys.argv[1:], *["small", "5"][len(sys.argv) - 1 :]]
    write("restart", figures(words[0], int(words[1])))
