"""Constants of families of software from published runs, and step times by them without planning again.

A prediction's parts (published.parts_of) scale with the constants; what the planner's own timeline makes of
their sum is kept as a factor. Constants are the least squares of log errors, groups of rows counting alike, with
each constant held near the GPU's (and the GPU's near 1) as if that had been measured with an error of `LOOSE`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

import numpy as np
from published import Constants, Prediction, Row

NAMES = [f.name for f in fields(Constants)]
# How far constants may go, as logarithms: what a family's may differ from its GPU's by, and a GPU's from 1.
LOOSE = {
    "products": 0.25, "products_fp8": 0.3, "attention": 0.5, "memory": 0.6, "overhead": 0.7,
    "inside": 0.5, "across": 0.5, "overlap": 0.5,
}  # fmt: skip
# A row's own error: releases of the same software differ by that much.
NOISE = 0.05
# What families on one GPU differ from each other by, when constants must serve another one.
BETWEEN = 0.15


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
        self.narrow = np.array([s.row.precision == "fp8" for _, s, _ in rows])
        # What had to wait although all overlapped that can: must_wait was seen at `used`.
        hidden = self.used["overlap"]
        self.must = np.clip(self.parts["must_wait"] - (1 - hidden), 0, None) / np.maximum(hidden, 1e-6)
        self.log_used = np.log(self._sum(self.used))

    def _sum(self, c: dict) -> np.ndarray:
        parts, used = self.parts, self.used
        products = np.where(
            self.narrow, used["products_fp8"] / c["products_fp8"], used["products"] / c["products"]
        )
        compute = parts["products"] * products + parts["overhead"] * c["overhead"] / used["overhead"]
        compute = compute + parts["attention"] * used["attention"] / c["attention"]
        compute = compute + parts["memory"] * used["memory"] / c["memory"]
        messages = parts["inside"] * used["inside"] / c["inside"]
        messages = messages + parts["across"] * used["across"] / c["across"]
        return compute + messages * (self.must + (1 - self.must) * (1 - np.minimum(1.0, c["overlap"])))

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


def fit(samples: list[Sample], centre: Constants, noise: float = NOISE) -> Constants:
    """The constants of these rows, held near `centre`."""
    if not samples:
        return centre
    table = Table(samples)
    groups = [s.row.group for s in samples]
    weights = np.array([1 / groups.count(g) for g in groups]) ** 0.5 / noise
    loose = np.array([LOOSE[name] for name in NAMES])
    start = np.array([np.log(getattr(centre, name)) for name in NAMES])

    def residuals(x: np.ndarray) -> np.ndarray:
        errors = table.errors(Constants(**dict(zip(NAMES, np.exp(x), strict=True))))
        # Errors beyond three times the noise count less: a row that no constants explain must not bend them.
        robust = np.sign(errors) * np.minimum(np.abs(errors), np.sqrt(np.abs(errors) * 3 * noise))
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
    return Constants(**{name: round(float(v), 4) for name, v in zip(NAMES, np.exp(x), strict=True)})


def fit_all(samples: list[Sample]) -> dict:
    """Constants by GPU and family, of GPUs for families that have none, and of GPUs without each family in turn."""
    everywhere = fit(samples, Constants())
    out: dict = {
        "rows": [s.row.id for s in samples],
        "gpus": {},
        "families": {},
        "without": {},
        "elsewhere": asdict(everywhere),
    }
    others = {
        family: fit([s for s in samples if s.row.family != family], Constants(), BETWEEN)
        for family in sorted({s.row.family for s in samples})
    }
    for gpu in sorted({s.row.gpu for s in samples}):
        here = [s for s in samples if s.row.gpu == gpu]
        own = fit(here, everywhere)
        out["gpus"][gpu] = asdict(fit(here, everywhere, BETWEEN))
        for family in sorted({s.row.family for s in here}):
            out["families"][f"{gpu} {family}"] = asdict(fit([s for s in here if s.row.family == family], own))
            rest = [s for s in here if s.row.family != family]
            out["without"][f"{gpu} {family}"] = asdict(fit(rest, others[family], BETWEEN))
    return out


def constants_of(row: Row, known: dict, own: bool = True) -> Constants:
    """A row's constants: of its GPU and family, else of its GPU, else of all. `own`: False leaves its family out."""
    key = f"{row.gpu} {row.family}"
    found = known["families"].get(key) if own else known["without"].get(key)
    return Constants(**(found or known["gpus"].get(row.gpu) or known["elsewhere"]))
