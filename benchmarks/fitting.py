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


@dataclass
class Sample:
    """A row and the predictions that may stand for it, made with some constants."""

    row: Row
    predictions: list[Prediction]
    used: Constants


def seconds(sample: Sample, prediction: Prediction, constants: Constants) -> float:
    """The step time that the sample's prediction would have with other constants."""
    return prediction.seconds * _sum(sample, prediction, constants) / _sum(sample, prediction, sample.used)


def _sum(sample: Sample, prediction: Prediction, c: Constants) -> float:
    parts, used = prediction.parts, sample.used
    products = "products_fp8" if sample.row.precision == "fp8" else "products"

    def scaled(part: str, by: str) -> float:
        return parts[part] * getattr(used, by) / getattr(c, by)

    compute = scaled("products", products) + scaled("attention", "attention") + scaled("memory", "memory")
    compute += parts["overhead"] * c.overhead / used.overhead
    messages = scaled("inside", "inside") + scaled("across", "across")
    # What had to wait although all overlapped that can: must_wait was seen at `used`.
    must = max(0.0, parts["must_wait"] - (1 - used.overlap)) / max(used.overlap, 1e-6)
    return compute + messages * (must + (1 - must) * (1 - min(1.0, c.overlap)))


def error(sample: Sample, constants: Constants) -> float:
    """log(predicted / measured), of the prediction that comes closest where it is not stated what was recomputed."""
    measured = sample.row.measured
    return min((float(np.log(seconds(sample, p, constants) / measured)) for p in sample.predictions), key=abs)


def fit(samples: list[Sample], centre: Constants) -> Constants:
    """The constants of these rows, held near `centre`."""
    if not samples:
        return centre
    groups = [s.row.group for s in samples]
    weights = np.array([1 / groups.count(g) for g in groups]) ** 0.5 / NOISE
    loose = np.array([LOOSE[name] for name in NAMES])
    start = np.array([np.log(getattr(centre, name)) for name in NAMES])

    def residuals(x: np.ndarray) -> np.ndarray:
        constants = Constants(**dict(zip(NAMES, np.exp(x), strict=True)))
        errors = np.array([error(s, constants) for s in samples])
        # Errors beyond three times the noise count less: a row that no constants explain must not bend them.
        robust = np.sign(errors) * np.minimum(np.abs(errors), np.sqrt(np.abs(errors) * 3 * NOISE))
        return np.concatenate([robust * weights, (x - start) / loose])

    x, damping = start.copy(), 1.0
    value = residuals(x)
    for _ in range(60):
        jacobian = np.stack([(residuals(x + 1e-4 * e) - value) / 1e-4 for e in np.eye(len(x))], 1)
        normal = jacobian.T @ jacobian
        moved = x - np.linalg.solve(normal + damping * np.diag(np.diag(normal)), jacobian.T @ value)
        moved[NAMES.index("overlap")] = min(0.0, moved[NAMES.index("overlap")])
        there = residuals(moved)
        if there @ there < value @ value:
            done = value @ value - there @ there < 1e-6 * (value @ value)
            x, value, damping = moved, there, damping / 3
            if done:
                break
        else:
            damping *= 4
            if damping > 1e9:
                break
    return Constants(**{name: round(float(v), 4) for name, v in zip(NAMES, np.exp(x), strict=True)})


def fit_all(samples: list[Sample]) -> dict:
    """Constants by GPU and family, of GPUs for families that have none, and of GPUs without each family in turn."""
    everywhere = fit(samples, Constants())
    out: dict = {"gpus": {}, "families": {}, "without": {}, "elsewhere": asdict(everywhere)}
    for gpu in sorted({s.row.gpu for s in samples}):
        here = [s for s in samples if s.row.gpu == gpu]
        own = fit(here, everywhere)
        out["gpus"][gpu] = asdict(own)
        for family in sorted({s.row.family for s in here}):
            out["families"][f"{gpu} {family}"] = asdict(fit([s for s in here if s.row.family == family], own))
            out["without"][f"{gpu} {family}"] = asdict(
                fit(
                    [s for s in here if s.row.family != family],
                    fit([s for s in samples if s.row.family != family], Constants()),
                )
            )
    return out


def constants_of(row: Row, known: dict, own: bool = True) -> Constants:
    """A row's constants: of its GPU and family, else of its GPU, else of all. `own`: False leaves its family out."""
    key = f"{row.gpu} {row.family}"
    found = known["families"].get(key) if own else known["without"].get(key)
    return Constants(**(found or known["gpus"].get(row.gpu) or known["elsewhere"]))
