"""Constants of families of software from published runs, and step times by them without planning again.

A prediction's parts (published.parts_of) scale with the constants; what the planner's own timeline makes of
their sum is kept as a factor. A family's constants are the least squares of log errors, groups of rows counting
alike, with each held near the GPU's as if that had been measured with an error of `LOOSE`; a GPU's, which serve
families that have none, are the median family's, near what is typical of all.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, fields

import numpy as np
from published import GIB, Constants, Prediction, Row

NAMES = [f.name for f in fields(Constants) if f.name != "held"]  # those of time
# How far constants may go, as logarithms: what a family's may differ from its GPU's by, and a GPU's from all
# GPUs', and theirs from 1. Links may differ most: by networks that rows do not state, and by what software chunks.
LOOSE = {
    "products": 0.15, "attention": 0.3, "memory": 0.6, "overhead": 1.0, "inside": 1.0, "across": 1.0, "overlap": 1.0,
}  # fmt: skip
# A row's own error: releases of the same software differ by that much.
NOISE = 0.05
# What families on one GPU differ from each other by, when constants must serve another one.
BETWEEN = 0.15
# What is known before a row is seen: the profiles, and some context of the driver and of communicators.
UNKNOWN = Constants(held=2.0)
# Where the planner's own timeline is asked: what parts scale to must not lie far from that.
TYPICAL = Constants(0.8, 0.8, 1.5, 3.0, 0.9, 0.7, 0.7)


@dataclass
class Sample:
    """A row and the predictions that may stand for it, made with some constants."""

    row: Row
    predictions: list[Prediction]
    used: Constants


class Table:
    """The parts of many predictions as arrays, so that all are priced at once."""

    def __init__(self, samples: list[Sample]) -> None:
        rows = [(k, s, p) for k, s in enumerate(samples) for p in s.predictions]
        self.first = np.array([i for i, (k, _, _) in enumerate(rows) if i == 0 or rows[i - 1][0] != k], int)
        self.sample = np.array([k for k, _, _ in rows], int)
        self.log_seconds = np.log([p.seconds / s.row.measured for _, s, p in rows])
        self.parts = {name: np.array([p.parts[name] for _, _, p in rows]) for name in rows[0][2].parts}
        self.used = {name: np.array([getattr(s.used, name) for _, s, _ in rows]) for name in NAMES}
        # What had to wait although all overlapped that can: these were seen at `used`.
        hidden = self.used["overlap"]
        self.must, self.must_between = (
            np.clip(self.parts[name] - (1 - hidden), 0, None) / np.maximum(hidden, 1e-6)
            for name in ("must_wait", "must_wait_between")
        )
        self.log_used = np.log(self._sum(self.used))

    def _sum(self, c: dict) -> np.ndarray:
        parts, used = self.parts, self.used
        compute = parts["products"] * used["products"] / c["products"]
        compute = compute + parts["attention"] * used["attention"] / c["attention"]
        compute = compute + parts["overhead"] * c["overhead"] / used["overhead"]
        compute = compute + parts["memory"] * used["memory"] / c["memory"]
        inside, across = used["inside"] / c["inside"], used["across"] / c["across"]
        messages = parts["inside"] * inside + parts["across"] * across
        between = parts["between_inside"] * inside + parts["between_across"] * across
        shown = 1 - np.minimum(1.0, c["overlap"])
        waits = messages * (self.must + (1 - self.must) * shown)
        return compute + waits + between * (self.must_between + (1 - self.must_between) * shown)

    def errors(self, constants: Constants) -> np.ndarray:
        """By sample, log(predicted / measured): of the prediction that comes closest, where it is not stated what
        was computed again."""
        errors = self.log_seconds + np.log(self._sum(asdict(constants))) - self.log_used
        least = np.minimum.reduceat(np.abs(errors), self.first)
        signs = errors[self.first]
        for i, k in enumerate(self.sample):
            if abs(errors[i]) == least[k]:
                signs[k] = errors[i]
        return np.sign(signs) * least


def weights_of(samples: list[Sample], serves_others: bool) -> np.ndarray:
    """What each row counts: groups alike, or, where constants must serve other families, families alike."""
    groups = Counter(s.row.group for s in samples)
    of_family: dict[str, set[str]] = defaultdict(set)
    for s in samples:
        of_family[s.row.family].add(s.row.group)
    shares = [len(of_family[s.row.family]) if serves_others else 1 for s in samples]
    return np.array([1 / groups[s.row.group] / share for s, share in zip(samples, shares, strict=True)])


def fit(samples: list[Sample], centre: Constants, serves_others: bool = False) -> Constants:
    """The constants of these rows, held near `centre`.

    A row that no constants explain must not bend them: the further off, the less an error weighs (Cauchy's loss).
    `serves_others`: those of a family that is not among them, so that a family is one measurement, and beyond its
    noise an error counts by its size, as in a median.
    """
    if not samples:
        return centre
    table = Table(samples)
    noise, usual = (BETWEEN, BETWEEN) if serves_others else (NOISE, 3 * NOISE)
    weights = weights_of(samples, serves_others) ** 0.5 / noise
    loose = np.array([LOOSE[name] for name in NAMES])
    start = np.array([np.log(getattr(centre, name)) for name in NAMES])

    def residuals(x: np.ndarray) -> np.ndarray:
        errors = table.errors(Constants(**dict(zip(NAMES, np.exp(x), strict=True))))
        if serves_others:
            robust = np.sign(errors) * np.minimum(np.abs(errors), np.sqrt(np.abs(errors) * usual))
        else:
            robust = np.sign(errors) * usual * np.sqrt(np.log1p((errors / usual) ** 2))
        return np.concatenate([robust * weights, (x - start) / loose])

    # Nothing changes where overlap goes above 1.
    steps = np.array([-1e-4 if name == "overlap" else 1e-4 for name in NAMES])
    x, damping = start.copy(), 1.0
    value = residuals(x)
    for _ in range(60):
        jacobian = np.stack(
            [(residuals(x + steps * e) - value) / steps[k] for k, e in enumerate(np.eye(len(x)))], 1
        )
        normal = jacobian.T @ jacobian
        moved = x - np.linalg.solve(normal + damping * np.diag(np.diag(normal)), jacobian.T @ value)
        moved[NAMES.index("overlap")] = min(0.0, moved[NAMES.index("overlap")])
        there = residuals(moved)
        if there @ there < value @ value:
            done = value @ value - there @ there < 1e-5 * (value @ value)
            x, value, damping = moved, there, damping / 3
            if done:
                break
        else:
            damping *= 4
            if damping > 1e6:
                break
    found = {name: round(float(v), 4) for name, v in zip(NAMES, np.exp(x), strict=True)}
    return Constants(**found, held=held(samples, centre.held, serves_others))


def held(samples: list[Sample], centre: float, serves_others: bool) -> float:
    """The median GiB of a GPU that rows, or families, do not hold in tensors; `centre` counts as half of one."""
    rest = defaultdict(list)
    for s in samples:
        if s.row.memory_gib:
            in_tensors = s.predictions[0].peak_bytes / GIB - s.used.held
            rest[s.row.family if serves_others else s.row.id].append(float(s.row.memory_gib) - in_tensors)
    if not rest:
        return centre
    middle = float(np.median([np.median(values) for values in rest.values()]))
    return round(max(0.0, (len(rest) * middle + 0.5 * centre) / (len(rest) + 0.5)), 2)


def fit_all(samples: list[Sample]) -> dict:
    """Constants by GPU and family, of GPUs for families that have none, and of GPUs without each family in turn."""
    everywhere = fit(samples, UNKNOWN, serves_others=True)
    out: dict = {
        "rows": [s.row.id for s in samples],
        "gpus": {},
        "families": {},
        "without": {},
        "elsewhere": asdict(everywhere),
    }
    others = {
        family: fit([s for s in samples if s.row.family != family], UNKNOWN, serves_others=True)
        for family in sorted({s.row.family for s in samples})
    }
    for gpu in sorted({s.row.gpu for s in samples}):
        here = [s for s in samples if s.row.gpu == gpu]
        own = fit(here, everywhere, serves_others=True)
        out["gpus"][gpu] = asdict(own)
        for family in sorted({s.row.family for s in here}):
            out["families"][f"{gpu} {family}"] = asdict(fit([s for s in here if s.row.family == family], own))
            rest = [s for s in here if s.row.family != family]
            out["without"][f"{gpu} {family}"] = asdict(fit(rest, others[family], serves_others=True))
    return out


def constants_of(row: Row, known: dict, own: bool = True) -> Constants:
    """A row's constants: of its GPU and family, else of its GPU, else of all. `own`: False leaves its family out."""
    key = f"{row.gpu} {row.family}"
    found = known["families"].get(key) if own else known["without"].get(key)
    return Constants(**(found or known["gpus"].get(row.gpu) or known["elsewhere"]))
