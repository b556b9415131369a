"""The planner's figures: from a recorded step's graph to a plan, and how good the plan is proven to be.

python benchmarks/planner.py              # all rows, some minutes on an idle machine
python benchmarks/planner.py search gaps  # some
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

from common import Figure, number, write
from moai import _C
from moai.planning import record_step
from moai.planning.models import MODELS, llama

ROUNDS = 5


def plan_seconds(graph: str, cluster: str, pins: str = "") -> tuple[float, float, dict]:
    """Return the wall and CPU seconds from a graph's text to a plan, and the plan."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = _C.plan_step(graph, cluster, pins)
    return time.perf_counter() - wall, time.process_time() - cpu, found


def planned(name: str, model: str, batch: int, cluster: str, bound: float, rounds: int) -> list[Figure]:
    """Plan a known model's whole step (forward, loss, backward, clip, AdamW), again and again."""
    graph, _ = record_step(MODELS[model], batch, 1024)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    runs = [plan_seconds(graph, cluster) for _ in range(rounds)]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    best = runs[0][2]["candidates"][0]
    figure = number(
        name,
        [wall for wall, _, _ in runs],
        bound,
        "s",
        cpu_seconds=sorted(cpu for _, cpu, _ in runs)[len(runs) // 2],
        layout=best["layout"],
        step_time_s=best["step_time_s"],
        tried=runs[0][2]["tried"],
    )
    return [figure, number(f"{name}: memory", [grown], 2.0, "GiB")]


def search() -> list[Figure]:
    """Llama-3-8B on 64 devices."""
    return planned(
        "Llama-3-8B, 64 x 1024 on h100:8x8, graph to plan", "llama3-8b", 64, "h100:8x8", 5.0, ROUNDS
    )


def large() -> list[Figure]:
    """Llama-3-405B on 1,024 devices."""
    return planned(
        "Llama-3-405B, 128 x 1024 on h100:8x128, graph to plan", "llama3-405b", 128, "h100:8x128", 60.0, 3
    )


def growth() -> list[Figure]:
    """The same layers, 128 of them against 8."""
    graphs = {layers: record_step(llama(1024, layers, 16, 4, 2816, 32000), 64, 512)[0] for layers in (8, 128)}
    ratios, seconds = [], {8: [], 128: []}
    for _ in range(ROUNDS):
        for layers, graph in graphs.items():
            seconds[layers].append(plan_seconds(graph, "h100:8x8")[1])
        ratios.append(seconds[128][-1] / seconds[8][-1])
    return [
        number(
            "128 layers against 8, graph to plan, CPU seconds",
            ratios,
            1.5,
            "x",
            cpu_seconds_8=sorted(seconds[8])[ROUNDS // 2],
            cpu_seconds_128=sorted(seconds[128])[ROUNDS // 2],
        )
    ]


def gaps() -> list[Figure]:
    """How far from the best of its mesh, of one stage and two axes, a plan may be at most."""
    figures = []
    for binds, model, batch, cluster, bound in (
        (False, "gpt2", 64, "h100:8x2", 0.001),
        (False, "llama3-70b", 32, "b200:8x2", 0.001),
        (True, "llama3-8b", 64, "a100-40:8x2", 0.02),
        (True, "llama3-8b", 64, "a100-40:4x2", 0.02),
        (True, "llama3-70b", 64, "h200:8x2", 0.02),
        (True, "llama3-405b", 128, "h100:8x128", 0.02),
    ):
        name = f"two axes, memory {'binds' if binds else 'does not bind'}"
        graph, _ = record_step(MODELS[model], batch, 1024)
        _, cpu, found = plan_seconds(graph, cluster, "pp=1")
        best = found["candidates"][0]
        assert best["fits"], (model, cluster, best["excess"])
        assert len(best["axes"]) == 2, (model, cluster, best["layout"])
        limit = json.loads(_C.cluster(cluster)["json"])["kinds"][0]["memory_bytes"]
        tight = any(word in best["layout"] for word in ("recompute", "as they are made")) or (
            best["peak_bytes"] > 0.98 * limit
        )
        assert tight == binds, (model, cluster, best["layout"], best["peak_bytes"])
        what = f"gap, {name}: {model}, batch {batch}, {cluster}"
        figures.append(
            number(
                what,
                [found["mesh_gap"]],
                bound,
                "",
                all_choices=found["gap"],
                layout=best["layout"],
                cpu_seconds=cpu,
            )
        )
    return figures


ROWS = {"search": search, "large": large, "growth": growth, "gaps": gaps}


def main() -> None:
    """Run the rows that the command line names, or all, each in a process of its own."""
    names = sys.argv[1:] or list(ROWS)
    for name in names:
        if name not in ROWS:
            sys.exit(f"unknown row '{name}': choose from {', '.join(ROWS)}")
    if len(names) == 1:
        write(f"planner_{names[0]}", ROWS[names[0]]())
        return
    failed = [n for n in names if subprocess.run([sys.executable, __file__, n], check=False).returncode]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
