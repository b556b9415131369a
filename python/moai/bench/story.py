"""A batch that outgrows its devices, at small size: 16 sequences on 4 devices, 64 on 16, then 512 on 16.

The script is the same each time; that the last batch does not fit into the devices at once is the planner's affair,
which goes through it in parts. Each run is a process of its own, since a process has one set of devices.
"""

from __future__ import annotations

import statistics

from .errors import RunFailed
from .options import PRESETS, STORY, Settings
from .report import table, write_json
from .scaling import command_of, one_run

ROUNDS = 3
FEW, MANY = "story-64x16", "story-512x16"


def _name(preset: str) -> str:
    settings = PRESETS[preset]
    limit = f", {settings['device_memory']} each" if "device_memory" in settings else ""
    return f"{settings['batch']} on {settings['devices']}{limit}"


def run(settings: Settings) -> dict:
    """Run each of the story's presets `ROUNDS` times, in turn, and print what the largest batch gains for each token.

    What `settings` say beside the preset goes to each run. Raises RunFailed with a run's own error, or if the
    batch of 512 was gone through at once: then the limit on memory shows nothing.
    """
    runs: dict[str, list[dict]] = {name: [] for name in STORY}
    for number in range(ROUNDS):
        for name in STORY if number % 2 == 0 else STORY[::-1]:
            found = one_run(_name(name), command_of(settings, preset=name))
            runs[name].append(found)
            print(
                f"round {number + 1} of {ROUNDS}, {_name(name)}: "
                f"{found['throughput']['tokens_per_second']:.2f} tokens/sec; {found['plan']['layout']}",
                flush=True,
            )
    if any("micro-batches" not in found["plan"]["layout"] for found in runs[MANY]):
        raise RunFailed(f"{_name(MANY)} fitted at once: lower --device-memory for the story to show anything")
    speed = {name: [r["throughput"]["tokens_per_second"] for r in found] for name, found in runs.items()}
    ratios = [many / few for many, few in zip(speed[MANY], speed[FEW], strict=True)]
    results = {
        "rounds": ROUNDS,
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
    }
    results["runs"] = {
        name: {
            "tokens_per_second": statistics.median(speed[name]),
            "cpu_seconds": statistics.median(r["cpu_seconds"] for r in found),
            "layout": found[-1]["plan"]["layout"],
            "last_loss": found[-1]["losses"][-1][1],
        }
        for name, found in runs.items()
    }
    rows = [
        (_name(name).split(",")[0], f"{found['tokens_per_second']:.2f} tokens/sec; {found['layout']}")
        for name, found in results["runs"].items()
    ]
    text = f"{results['ratio']:.3f} x ({min(ratios):.3f} to {max(ratios):.3f}) of 64 on 16, 512 on 16"
    print()
    print(table([*rows, ("each token", text)]), flush=True)
    if settings.json is not None:
        write_json(settings.json, results)
    return results
