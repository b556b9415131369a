"""The main job on several numbers of devices, in turn: what does each more bring?

Each run is a process of its own, since a process has one set of devices. Rounds go through all numbers, so that
whatever else the machine does falls on all of them.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from .errors import BadInput, RunFailed
from .options import Settings, flag
from .report import table, write_json

ROUNDS = 3


def counts_of(text: str) -> list[int]:
    """Return the numbers in `1,2,4`; raise BadInput for anything else."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdigit() and int(word) > 0 for word in words) or len(set(words)) != len(words):
        raise BadInput(f"--devices {text}: give different numbers of devices, such as 1,2,4")
    return [int(word) for word in words]


def command_of(settings: Settings, **changes: object) -> list[str]:
    """Return the command line of one of several runs: `settings` with `changes`, less what is about all of them."""
    changed = dataclasses.replace(settings, **{"json": None, "sample_bytes": 0, **changes})
    words = []
    for field in dataclasses.fields(Settings):
        value = getattr(changed, field.name)
        if value != field.default:
            words += [flag(field)] if field.type is bool else [flag(field), str(value)]
    return words


def one_run(name: str, argv: list[str]) -> dict:
    """Run the job in a process of its own and return its results; `name` is for messages."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.json"
        run = subprocess.run(
            [sys.executable, "-m", "moai", "bench", *argv, "--json", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode != 0 or not path.exists():
            raise RunFailed(f"the run on {name} failed:\n{run.stderr.strip()[-2000:]}")
        return json.loads(path.read_text())


def run(settings: Settings) -> dict:
    """Run every number of devices ROUNDS times, print tokens/sec, the ratio to the first and CPU-seconds.

    Speeds are of whole finished steps, as each run reports them; the ratio is taken round by round. Raises
    BadInput for numbers that are none, and RunFailed with a run's own error.
    """
    counts = counts_of(settings.devices)
    runs: dict[int, list[dict]] = {count: [] for count in counts}
    for number in range(ROUNDS):
        for count in counts if number % 2 == 0 else counts[::-1]:
            runs[count].append(one_run(f"{count} devices", command_of(settings, devices=str(count))))
            speed = runs[count][-1]["throughput"]["tokens_per_second"]
            print(f"round {number + 1} of {ROUNDS}, {count} devices: {speed:.2f} tokens/sec", flush=True)
    results = {"rounds": ROUNDS, "devices": {}}
    rows = []
    for count in counts:
        speeds = [r["throughput"]["tokens_per_second"] for r in runs[count]]
        first = [r["throughput"]["tokens_per_second"] for r in runs[counts[0]]]
        ratios = [a / b for a, b in zip(speeds, first, strict=True)]
        losses = [r["losses"][-1][1] for r in runs[count]]
        results["devices"][count] = {
            "tokens_per_second": statistics.median(speeds),
            "ratio": statistics.median(ratios),
            "ratio_range": [min(ratios), max(ratios)],
            "cpu_seconds": statistics.median(r["cpu_seconds"] for r in runs[count]),
            "last_loss": losses[-1],
        }
        found = results["devices"][count]
        rows.append(
            (
                f"{count} devices",
                f"{found['ratio']:.3f} x ({min(ratios):.3f} to {max(ratios):.3f}) of {counts[0]}, "
                f"{found['tokens_per_second']:.2f} tokens/sec, {found['cpu_seconds']:.1f} CPU-seconds, "
                f"last loss {found['last_loss']:.5f}",
            )
        )
    print()
    print(table(rows), flush=True)
    if settings.json is not None:
        write_json(settings.json, results)
    return results
