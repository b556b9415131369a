"""All-reduce in shared memory against one memcpy of the same bytes by each worker, at the same time.

python benchmarks/communicator.py   # a minute on an idle machine
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from common import Figure, ratio, write

ROOT = Path(__file__).parent.parent
WORKERS, MIB, ROUNDS = 4, 64, 15


def measure() -> dict[str, list[tuple[float, float]]]:
    """Return (wall, CPU) seconds of each round, by side; the sides take turns."""
    build = ROOT / "build" / "dev"
    target = "communicator_benchmark"
    subprocess.run(
        ["cmake", "--build", str(build), "--target", target], check=True, stdout=subprocess.DEVNULL
    )
    out = subprocess.run(
        [build / target, str(WORKERS), str(MIB << 20), str(ROUNDS)],
        check=True,
        capture_output=True,
        text=True,
    )
    taken: dict[str, list[tuple[float, float]]] = {}
    for line in out.stdout.splitlines():
        name, wall, cpu = line.split()
        taken.setdefault(name, []).append((float(wall), float(cpu)))
    return taken


def main() -> None:
    """Measure, print and record."""
    taken = measure()
    what = f"all-reduce of {MIB} MiB over {WORKERS} workers"
    figures: list[Figure] = [
        ratio(f"{what}, in place, against a memcpy each", taken, "all_reduce", "memcpy", 2.0),
        ratio(
            f"{what}, to another buffer, against a memcpy each", taken, "all_reduce_to_another", "memcpy", 2.0
        ),
    ]
    write("communicator", figures)


if __name__ == "__main__":
    main()
