"""What recording and a step cost against another commit of moai, built in a tree of its own: both in one run.

python benchmarks/against_commit.py ../older        # a work tree in which `make build` ran
python benchmarks/against_commit.py ../older 9      # more rounds

Each side is a process of its own that finds its moai by PYTHONPATH, in turn; Python and torch are the same. Instructions
are not counted here: `foundation.py instructions`, run in both trees, does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from common import Figure, ratio, write

HERE = Path(__file__).resolve().parents[1]
ROUNDS = 7
BOUND = 1.05

# Only what both commits have: plain PyTorch, and three names of moai.
CODE = """
import json, sys, time
import torch
import torch.nn.functional as F
import moai
from moai import _C
from moai.bench.gpt2 import GPT2Config

assert moai.__file__.startswith(sys.argv[1]), moai.__file__

def side(config, tokens):
    torch.manual_seed(0)
    model = config.build().to("moai")
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    tokens = tokens.to("moai")
    def step():
        loss = F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return step

def median(values):
    return sorted(values)[len(values) // 2]

def timed(step, rounds, warm, finish):
    taken = []
    for n in range(warm + rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        if finish:
            moai.sync()
        if n >= warm:
            taken.append((time.perf_counter() - wall, time.process_time() - cpu))
        moai.sync()
    return median(taken)

torch.set_num_threads(1)
tiny = side(GPT2Config(8, 12, 2, vocab=32, max_seq=16), torch.randint(0, 32, (2, 16)))
out = {"host time of a repeated tiny step": timed(tiny, 81, 10, False)}
recorded = []
for _ in range(31):
    moai.reset_stats()
    _C.time_calls(True)
    tiny()
    _C.time_calls(False)
    stats = moai.stats()
    recorded.append(stats["seconds"]["record_timed"] / stats["ops"])
    moai.sync()
out["inside the recorder, an op of a repeated step"] = (median(recorded), median(recorded))
torch.set_num_threads(2)
small = side(GPT2Config(256, 4, 4, vocab=256, max_seq=256), torch.randint(0, 256, (8, 256)))
out["a whole step of a small GPT-2"] = timed(small, 15, 4, True)
print(json.dumps(out))
"""


def measured(tree: Path) -> dict[str, list[float]]:
    """Return what one process of `tree` takes: by name, wall and CPU seconds."""
    environment = os.environ | {"PYTHONPATH": str(tree / "python"), "MOAI_DEVICES": "cpu"}
    command = [sys.executable, "-c", CODE, str(tree)]
    ran = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(ran.stdout.splitlines()[-1])


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
    write(
        "against_commit",
        figures(Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else ROUNDS),
    )
