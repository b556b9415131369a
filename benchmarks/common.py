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
    bound: float | None  # None: recorded, not held against anything
    better: str  # "lower" or "higher"
    unit: str
    low: float
    high: float
    detail: dict = field(default_factory=dict)

    @property
    def reached(self) -> bool:
        """Whether the median lies on the right side of the bound."""
        if self.bound is None:
            return True
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


def number(name: str, values: list[float], bound: float | None, unit: str, **detail: object) -> Figure:
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


def bound_text(bound: float | None, better: str) -> str:
    """Return the bound as a table shows it."""
    return "" if bound is None else f"{'≤' if better == 'lower' else '≥'} {bound:g}"


def write(name: str, figures: list[Figure]) -> None:
    """Write results/`name`.json, print its rows, and write results/README.md anew from every file there."""
    RESULTS.mkdir(exist_ok=True)
    rows = [asdict(f) | {"reached": f.reached} for f in figures]
    (RESULTS / f"{name}.json").write_text(
        json.dumps({"machine": machine(), "figures": rows}, indent=1) + "\n"
    )
    for f in figures:
        held = "" if f.bound is None else f"; bound {f.bound:g}"
        mark = "ok    " if f.reached else "MISSED"
        print(f"{mark} {f.value:.4g} {f.unit} ({f.low:.4g} to {f.high:.4g}{held})  {f.name}", flush=True)
        for key, value in f.detail.items():
            print(f"         {key}: {value:.4g}" if isinstance(value, float) else f"         {key}: {value}")
    write_page()


def write_page() -> None:
    """Write results/README.md: every figure on record, and on what it was measured."""
    lines = [
        "# Results",
        "",
        "Written by the scripts in `benchmarks/`, from the `.json` files here, which hold more. Each value is a",
        "median with its range; a ratio compares two sides of one run, in turn, on one machine.",
        "",
        "| what | value | range | bound | reached | file | commit | date |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    machines = set()
    for path in sorted(RESULTS.glob("*.json")):
        content = json.loads(path.read_text())
        on = content["machine"]
        machines.add(f"{on['cpu']}, {on['cores']} cores, torch {on['torch']}, Python {on['python']}")
        for f in content["figures"]:
            bound = bound_text(f["bound"], f["better"])
            reached = "" if f["bound"] is None else "yes" if f["reached"] else "**no**"
            lines.append(
                f"| {f['name']} | {f['value']:.4g} {f['unit']} | {f['low']:.4g} to {f['high']:.4g} | {bound} "
                f"| {reached} | `{path.name}` | {on['commit']} | {on['date']} |"
            )
    lines += ["", "Machines:", "", *(f"- {m}" for m in sorted(machines))]
    (RESULTS / "README.md").write_text("\n".join(lines) + "\n")
