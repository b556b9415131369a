"""How much longer `import torch` takes where moai is installed and not used.

python benchmarks/import_time.py          # 15 pairs of processes, under a minute on an idle machine
python benchmarks/import_time.py 40       # more

The two sides are one interpreter, in turn: `import torch` looks for entry points, as it does wherever it is installed, and
finds moai's, or does not since it is left out of the list. CPU seconds, children and system time included, are held
against the bound: the wall clock also sees what else runs.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time

from common import Figure, number, write

BOUND_MS = 50
PAIRS = 15
CODE = """
import importlib.metadata as metadata, sys
loaded, all_of = sys.argv[1] == "1", metadata.entry_points
metadata.entry_points = lambda **names: [e for e in all_of(**names) if loaded or e.name != "moai"]
import torch
assert ("moai" in sys.modules) == loaded
"""


def seconds(loaded: bool) -> tuple[float, float]:
    """Wall and CPU seconds of a process that imports torch and ends."""
    # As installed: pip compiles what it installs.
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", CODE, str(int(loaded))], env=environment, check=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def figures(pairs: int) -> list[Figure]:
    """The difference pair by pair, in milliseconds of CPU and of wall time."""
    for loaded in (False, True):
        seconds(loaded)  # the files come from the disk once
    without, with_moai = [], []
    for turn in range(pairs):
        for loaded in (False, True) if turn % 2 else (True, False):
            (with_moai if loaded else without).append(seconds(loaded))
    rows = []
    for name, clock, bound in (("wall", 0, None), ("CPU", 1, BOUND_MS)):
        more = [(a[clock] - b[clock]) * 1e3 for a, b in zip(with_moai, without, strict=True)]
        figure = number(
            f"`import torch` with moai installed, {name} time more", more, bound, "ms", pairs=pairs
        )
        for side, taken in (("with", with_moai), ("without", without)):
            figure.detail[f"{side}_ms"] = sorted(t[clock] * 1e3 for t in taken)[pairs // 2]
        rows.append(figure)
    return rows


if __name__ == "__main__":
    write("import_time", figures(int(sys.argv[1]) if len(sys.argv) > 1 else PAIRS))
