"""What recording and a step cost against another commit of moai, built in a tree of its own: both in one run.

python benchmarks/against_commit.py ../older        # a work tree in which `make build` ran
python benchmarks/against_commit.py ../older 9      # more rounds

Each side is a process of its own that finds its moai by PYTHONPATH, in turn; Python and torch are the same. Instructions
are not counted here: `foundation.py instructions`, run in both trees, does.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import moai
import torch
from common import Figure, ratio, write
from foundation import gpt_side, inside_recorder, tiny_side
from moai.bench.gpt2 import GPT2Config

HERE = Path(__file__).resolve().parents[1]
ROUNDS = 7
BOUND = 1.05


def timed(step, rounds: int, warm: int, finish: bool) -> tuple[float, float]:
    """Return the medians of wall and CPU seconds of a step; `finish`: until it has run, else the script's part."""
    taken = []
    for n in range(warm + rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        if finish:
            moai.sync()
        if n >= warm:
            taken.append((time.perf_counter() - wall, time.process_time() - cpu))
        moai.sync()
    return statistics.median(wall for wall, _ in taken), statistics.median(cpu for _, cpu in taken)


def of_the_script() -> dict[str, tuple[float, float]]:
    """What the script's thread takes, where the device has one thread."""
    torch.set_num_threads(1)
    tiny = tiny_side("moai", fused=True)
    out = {"host time of a repeated tiny step": timed(tiny, 81, 10, False)}
    recorded = statistics.median(inside_recorder(tiny, 31)[0])
    out["inside the recorder, an op of a repeated step"] = (recorded, recorded)
    return out


def of_steps() -> dict[str, tuple[float, float]]:
    """What whole steps take, on as many threads as torch has."""
    small = gpt_side(GPT2Config(256, 4, 4, vocab=256, max_seq=256), 8, "moai", fused=True)
    two_layers = gpt_side(GPT2Config(64, 2, 4, vocab=256, max_seq=64), 8, "moai", fused=True)
    return {
        "a whole step of a small GPT-2": timed(small, 15, 4, True),
        "a whole step of a GPT-2 of two layers": timed(two_layers, 101, 10, True),
    }


# By name: each in a process of its own, since a device's threads are counted when it is made.
PARTS = {"script": of_the_script, "steps": of_steps}


def side(tree: str, part: str) -> None:
    """Print what one process takes, by name. Of moai it uses only what both commits have."""
    assert moai.__file__.startswith(tree), moai.__file__
    print(json.dumps(PARTS[part]()))


def measured(tree: Path) -> dict[str, list[float]]:
    """Return what processes of `tree` take: by name, wall and CPU seconds."""
    environment = os.environ | {"PYTHONPATH": str(tree / "python"), "MOAI_DEVICES": "cpu"}
    out = {}
    for part in PARTS:
        command = [sys.executable, __file__, "side", str(tree), part]
        ran = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        out |= json.loads(ran.stdout.splitlines()[-1])
    return out


def figures(other: Path, rounds: int) -> list[Figure]:
    """Return this tree's times over those of `other`, round by round."""
    taken: dict[str, dict[str, list]] = {}
    for turn in range(rounds):
        sides = [("here", HERE), ("there", other)]
        for name, tree in sides if turn % 2 else sides[::-1]:
            for what, times in measured(tree).items():
                taken.setdefault(what, {"here": [], "there": []})[name].append(times)
    commit = subprocess.run(["git", "-C", other, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)  # fmt: skip
    against = commit.stdout.strip()
    return [
        ratio(f"{what}, against {against}", sides, "here", "there", BOUND) for what, sides in taken.items()
    ]


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    if sys.argv[1] == "side":
        side(sys.argv[2], sys.argv[3])
        sys.exit()
    write(
        "against_commit",
        figures(Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else ROUNDS),
    )
