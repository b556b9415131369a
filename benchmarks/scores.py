"""How far predictions of published runs are off: absolute, scaling inside a group, ranking of layouts."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable
from itertools import combinations

import numpy as np
from published import Row

SCORED = {"open", "held"}
# Pairs of layouts that are closer than this are not ranked.
CLOSE = 0.05


def quantiles(values: list[float]) -> dict[str, float]:
    """Median and 90th percentile, as errors: exp(|log|) - 1, and of how many."""
    if not values:
        return {"count": 0}
    at = np.percentile(values, [50, 90])
    return {"median": math.exp(at[0]) - 1, "p90": math.exp(at[1]) - 1, "count": len(values)}


def by_group(rows: list[Row], errors: dict[str, float]) -> list[float]:
    """The mean absolute log error of each group."""
    groups = defaultdict(list)
    for row in rows:
        if row.id in errors:
            groups[row.group].append(abs(errors[row.id]))
    return [statistics.fmean(values) for values in groups.values()]


def absolute(rows: list[Row], errors: dict[str, float]) -> dict[str, dict]:
    """No factor is taken from the row's own group."""
    scored = [row for row in rows if row.split in SCORED]
    subsets: dict[str, Callable[[Row], bool]] = {
        "core": lambda r: r.core == "y",
        "all": lambda r: True,
        "core, tier A": lambda r: r.core == "y" and r.tier == "A",
        "core, tier A and B": lambda r: r.core == "y" and r.tier in "AB",
    }
    return {
        name: quantiles(by_group([r for r in scored if keep(r)], errors)) for name, keep in subsets.items()
    }


def scaling(rows: list[Row], errors: dict[str, float]) -> dict[str, float]:
    """One factor a group, from its smallest run, then its other rows."""
    groups = defaultdict(list)
    for row in rows:
        if row.id in errors and row.split in SCORED:
            groups[row.group].append(row)
    values = []
    for group in groups.values():
        first, *others = sorted(group, key=lambda r: (int(r.gpus), int(r.global_batch)))
        if others:
            values.append(statistics.fmean(abs(errors[r.id] - errors[first.id]) for r in others))
    return quantiles(values)


def layout_of(row: Row) -> tuple:
    return tuple(
        row.fields[k]
        for k in ("dp", "tp", "cp", "pp", "vp", "ep", "micro_batch", "optimizer_sharding", "recompute")
    )


def ranking(rows: list[Row], errors: dict[str, float]) -> dict[str, float]:
    """Pairs with the same model, GPU, count and batch but another layout, ordered as they were measured."""
    same = defaultdict(list)
    for row in rows:
        if row.id in errors and row.split in SCORED:
            key = (
                row.group,
                row.layers,
                row.seq_len,
                row.gpus,
                row.global_batch,
                row.precision,
                row.net_gbps_per_gpu,
            )
            same[key].append(row)
    right = pairs = 0
    for group in same.values():
        for a, b in combinations(group, 2):
            apart = math.log(a.measured / b.measured)
            if layout_of(a) == layout_of(b) or abs(apart) < math.log(1 + CLOSE):
                continue
            pairs += 1
            right += (apart + errors[a.id] - errors[b.id]) * apart > 0
    return {"right": right / pairs if pairs else float("nan"), "pairs": pairs}


def memory(rows: list[Row], peaks: dict[str, float]) -> dict[str, float]:
    """Peak memory where the row states it."""
    return quantiles(
        [
            abs(math.log(peaks[r.id] / 2**30 / float(r.memory_gib)))
            for r in rows
            if r.memory_gib and r.id in peaks
        ]
    )
