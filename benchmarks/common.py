"""What every benchmark needs: ratios with their range, and what machine it was."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


@dataclass
class Figure:
    """One row: a ratio or a number, the bound it is held against, and how it was measured."""

    name: str
    value: float
    bound: float
    better: str  # "lower" or "higher"
    unit: str
    low: float
    high: float
    detail: dict = field(default_factory=dict)

    @property
    def reached(self) -> bool:
        """Whether the median lies on the right side of the bound."""
        return self.value <= self.bound if self.better == "lower" else self.value >= self.bound


def ratio(
    name: str, taken: dict, ours: str, theirs: str, bound: float, better: str = "lower", **detail: object
) -> Figure:
    """Return ours / theirs (or theirs / ours where higher is better), round by round."""
    pairs = list(zip(taken[ours], taken[theirs], strict=True))
    values = [a[0] / b[0] if better == "lower" else b[0] / a[0] for a, b in pairs]
    for side in (ours, theirs):
        detail[f"{side}_seconds"] = statistics.median(wall for wall, _ in taken[side])
        detail[f"{side}_cpu_seconds"] = statistics.median(cpu for _, cpu in taken[side])
    return Figure(name, statistics.median(values), bound, better, "x", min(values), max(values), detail)


def number(name: str, values: list[float], bound: float, unit: str, **detail: object) -> Figure:
    """Return the median of measured numbers, lower being better."""
    return Figure(name, statistics.median(values), bound, "lower", unit, min(values), max(values), detail)


def machine() -> dict:
    """Return what the figures depend on."""
    model = next(
        (line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?"
    )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def write(name: str, figures: list[Figure]) -> None:
    """Write results/`name`.json and add its rows to results/README.md's table for that name."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(
        json.dumps(
            {"machine": machine(), "figures": [asdict(f) | {"reached": f.reached} for f in figures]}, indent=1
        )
        + "\n"
    )
    for f in figures:
        print(
            f"{'ok    ' if f.reached else 'MISSED'} {f.value:.4g} {f.unit} ({f.low:.4g} to {f.high:.4g}; bound {f.bound:g})  {f.name}",
            flush=True,
        )
        for key, value in f.detail.items():
            print(
                f"         {key}: {value:.4g}" if isinstance(value, float) else f"         {key}: {value}",
                flush=True,
            )
