"""Constants of families of software from published runs, and step times by them without planning again.

A prediction's parts (published.parts_of) scale with the constants; what the planner's own timeline makes of
their sum is kept as a factor. All constants are fitted at once. Those of a family on a GPU are a product of what
is common to all runs, to the GPU, to the family, and to the two together, each held near 1 by what it usually is:
so a family is known on a GPU that it was not seen on, a GPU for a family that it was not seen with, and the fewer
rows say something, the nearer it stays to what others say (A. Gelman, J. Hill: Data Analysis Using Regression and
Multilevel/Hierarchical Models, 2006). A group of rows (one model, GPU and software) has a bias of its own beside
these, which no prediction uses: what all its rows are off by bends no constant as far as that, and constants are left
to say how they differ.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
from published import GIB, Constants, Prediction, Row
from scores import SCORED

NAMES = [f.name for f in fields(Constants) if f.name != "held"]  # those of time
# How far logarithms of constants usually lie from 0: what is common to all, a GPU's, a family's, and of the two
# together. Links differ most: by networks that rows do not state, and by what software chunks.
USUAL = {
    "products": (0.3, 0.11, 0.11, 0.11), "attention": (0.5, 0.15, 0.4, 0.15), "memory": (0.6, 0.1, 0.15, 0.1),
    "overhead": (1.0, 0.3, 2.0, 0.3), "inside": (0.7, 0.4, 0.4, 0.4), "across": (0.7, 0.8, 0.4, 0.4),
    "overlap": (0.5, 0.3, 0.3, 0.3),
}  # fmt: skip
# The same of what all rows of a group are off by; no constant is a group's, and no bias another's.
BIAS = 0.05
NONE = 1e-4
# A row's own error, and how much larger the errors of rows are that no constants explain, which must not bend
# them (Cauchy's loss).
NOISE = 0.03
OUTLIER = 1.8
FAR = OUTLIER * NOISE
# Rows of a group say partly the same: together they count as this power of their number.
ALIKE = 0.5
# What is known before a row is seen: the profiles, and some context of the driver and of communicators.
UNKNOWN = Constants(held=2.0)
# Where the planner's own timeline is asked: what parts scale to must not lie far from that.
TYPICAL = Constants(0.88, 0.88, 2.0, 7.0, 0.9, 0.87, 0.85)
# The fit begins there too, with these gaps between ops.
STARTS = (2.0, 7.0, 30.0)


@dataclass
class Sample:
    """A row and the predictions that may stand for it, made with some constants."""

    row: Row
    predictions: list[Prediction]
    used: Constants


class Table:
    """The parts of many predictions as arrays, so that all are priced at once."""

    def __init__(self, samples: Sequence[Sample]) -> None:
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

    def all_errors(self, logarithms: np.ndarray) -> np.ndarray:
        """By prediction, log(predicted / measured); `logarithms` of constants, by sample and name, and of the bias."""
        own = logarithms[self.sample]
        values = np.exp(own)
        sums = self._sum({name: values[:, k] for k, name in enumerate(NAMES)})
        return self.log_seconds + np.log(sums) - self.log_used + own[:, len(NAMES)]

    def closest(self, errors: np.ndarray) -> np.ndarray:
        """By sample, its prediction that comes closest, where it is not stated what was computed again."""
        least = np.minimum.reduceat(np.abs(errors), self.first)
        hits = np.nonzero(np.abs(errors) == least[self.sample])[0][::-1]
        found = np.zeros(len(self.first), int)
        found[self.sample[hits]] = hits
        return found

    def errors(self, constants: Constants) -> np.ndarray:
        """By sample, of the closest prediction with these constants for all."""
        row = np.log([*(asdict(constants)[name] for name in NAMES), 1.0])
        errors = self.all_errors(np.tile(row, (len(self.first), 1)))
        return errors[self.closest(errors)]


def robust(errors: np.ndarray) -> np.ndarray:
    """Squares of errors, as far as they are small."""
    return FAR**2 * np.log1p((errors / FAR) ** 2)


class Fit:
    """Finds what is common to all rows, GPUs, families and pairs of them."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples
        self.table = Table(samples)
        levels = [[*self.levels(s.row.gpu, s.row.family), ("group", s.row.group)] for s in samples]
        self.column = {key: k for k, key in enumerate(dict.fromkeys(key for keys in levels for key in keys))}
        self.design = np.zeros((len(samples), len(self.column)))
        for k, keys in enumerate(levels):
            self.design[k, [self.column[key] for key in keys]] = 1
        level_of = {"all": 0, "gpu": 1, "family": 2, "pair": 3}
        self.usual = np.array(
            [
                [NONE] * len(NAMES) + [BIAS]
                if key[0] == "group"
                else [USUAL[name][level_of[key[0]]] for name in NAMES] + [NONE]
                for key in self.column
            ]
        )

    @staticmethod
    def levels(gpu: str, family: str) -> list[tuple[str, ...]]:
        """What a row's constants are made of."""
        return [("all",), ("gpu", gpu), ("family", family), ("pair", gpu, family)]

    def weights(self, keep: Callable[[Row], bool]) -> np.ndarray:
        """What each row counts; 0 of those that are left out."""
        rows = [s.row if s.row.split in SCORED and keep(s.row) else None for s in self.samples]
        groups = Counter(row.group for row in rows if row)
        return np.array([groups[row.group] ** (ALIKE - 1) if row else 0.0 for row in rows])

    def run(
        self, keep: Callable[[Row], bool] = lambda row: True, start: np.ndarray | None = None
    ) -> np.ndarray:
        """The logarithms by level and name that make errors and themselves least, from `start` where given. Two ways
        to share rows' time among constants may both be near a least one: else several starts are tried."""
        weights = self.weights(keep)
        if start is not None:
            return self._descend(weights, start)[1]
        starts = []
        for overhead in STARTS:
            x = np.zeros_like(self.usual)
            x[self.column[("all",)], : len(NAMES)] = np.log([asdict(TYPICAL)[name] for name in NAMES])
            x[self.column[("all",)], NAMES.index("overhead")] = np.log(overhead)
            starts.append(x)
        return min((self._descend(weights, x) for x in starts), key=lambda found: found[0])[1]

    def left(self) -> float:
        """What predictions are off by as they are, rows that nothing explains counting less."""
        errors = self.table.log_seconds
        return float(self.weights(lambda _: True) @ robust(errors[self.table.closest(errors)]))

    def _descend(self, weights: np.ndarray, start: np.ndarray) -> tuple[float, np.ndarray]:
        """The least loss near `start`, and where it is (Gauss and Newton's method, damped)."""
        seen = np.nonzero(self.design[weights > 0].sum(0) > 0)[0]
        x = np.zeros_like(self.usual)
        if not len(seen):
            return 0.0, x
        x[seen] = start[seen]
        design, held = self.design[:, seen], (self.usual[seen] ** -2).ravel()

        def loss(x: np.ndarray) -> float:
            errors = self.table.all_errors(self.design @ x)
            off = robust(errors[self.table.closest(errors)])
            return float(weights @ off / NOISE**2 + (x[seen] ** 2).ravel() @ held)

        value, damping = loss(x), 0.1
        for _ in range(80):
            e, slopes = self._slopes(x)
            jacobian = np.einsum("il,in->iln", design, slopes).reshape(len(e), -1)
            counts = weights / NOISE**2 / (1 + (e / FAR) ** 2)
            normal = (jacobian * counts[:, None]).T @ jacobian + np.diag(held)
            slope = jacobian.T @ (counts * e) + held * x[seen].ravel()
            gained = 0.0
            while damping < 1e6:
                step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), slope)
                moved = x.copy()
                moved[seen] -= step.reshape(len(seen), -1)
                there = loss(moved)
                if there < value:
                    gained, value, x, damping = value - there, there, moved, damping / 4
                    break
                damping *= 5
            if gained < 1e-5 * value:
                break
        return value, x

    def _slopes(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """By sample its error, and by how much that grows with each constant's logarithm."""
        at = self.design @ x
        errors = self.table.all_errors(at)
        closest = self.table.closest(errors)
        slopes = np.zeros_like(at)
        for k in range(at.shape[1]):
            there = at.copy()
            there[:, k] += 1e-4
            if k == NAMES.index("overlap"):  # nothing changes above 1
                there[:, k] = np.minimum(at[:, k], 0) - 1e-4
            slopes[:, k] = (self.table.all_errors(there)[closest] - errors[closest]) / (
                there[:, k] - at[:, k]
            )
        return errors[closest], slopes

    def constants(self, x: np.ndarray, gpu: str | None, family: str | None, held: float) -> Constants:
        """Of a family on a GPU, whether seen together or not; None: of no matter which."""
        keys = [key for key in self.levels(gpu or "", family or "") if key in self.column]
        values = np.exp(x[[self.column[key] for key in keys], : len(NAMES)].sum(0))
        values[NAMES.index("overlap")] = min(1.0, values[NAMES.index("overlap")])
        return Constants(*(round(float(v), 4) for v in values), held=held)


def held(samples: Sequence[Sample], centre: float, serves_others: bool) -> float:
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


def next_constants(samples: Sequence[Sample]) -> dict[str, Constants]:
    """By row, the constants to plan it with anew."""
    fit = Fit(samples)
    x = fit.run()
    return {s.row.id: fit.constants(x, s.row.gpu, s.row.family, UNKNOWN.held) for s in samples}


def fit_all(samples: Sequence[Sample]) -> dict:
    """Constants by GPU and family, by either alone, and of each group and family from the rows of all others."""
    fit = Fit(samples)
    x = fit.run()
    scored = [s for s in samples if s.row.split in SCORED]
    gpus, families = (sorted({getattr(s.row, name) for s in scored}) for name in ("gpu", "family"))
    everywhere = held(scored, UNKNOWN.held, serves_others=True)
    of_gpu = {
        gpu: held([s for s in scored if s.row.gpu == gpu], everywhere, serves_others=True) for gpu in gpus
    }
    out: dict = {
        "rows": [s.row.id for s in scored],
        "elsewhere": asdict(fit.constants(x, None, None, everywhere)),
        "gpus": {gpu: asdict(fit.constants(x, gpu, None, of_gpu[gpu])) for gpu in gpus},
        "software": {family: asdict(fit.constants(x, None, family, everywhere)) for family in families},
        "families": {},
        "without_group": {},
        "without_family": {},
    }
    for gpu, family in sorted({(s.row.gpu, s.row.family) for s in scored}):
        here = [s for s in scored if (s.row.gpu, s.row.family) == (gpu, family)]
        of_pair = held(here, of_gpu[gpu], serves_others=False)
        out["families"][f"{gpu} {family}"] = asdict(fit.constants(x, gpu, family, of_pair))
    for what in ("group", "family"):
        for name in sorted({getattr(s.row, what) for s in scored}):
            without = fit.run(lambda row, what=what, name=name: getattr(row, what) != name, x)
            for row in (s.row for s in scored if getattr(s.row, what) == name):
                constants = fit.constants(without, row.gpu, row.family, of_gpu[row.gpu])
                out[f"without_{what}"][f"{row.gpu} {name}"] = asdict(constants)
    return out


def constants_of(row: Row, known: dict, without: str = "") -> Constants:
    """A row's constants: of its family on its GPU, else of the two as far as they are known. `without`: "group" or
    "family", those that were found without that."""
    name = f"{row.gpu} {getattr(row, without)}" if without else ""
    found = known[f"without_{without}"].get(name) if without else None
    found = found or known["families"].get(f"{row.gpu} {row.family}")
    if found is None:
        of_gpu, everywhere = known["gpus"].get(row.gpu, known["elsewhere"]), known["elsewhere"]
        software = known["software"].get(row.family, everywhere)
        found = {k: round(of_gpu[k] * software[k] / everywhere[k], 4) for k in NAMES} | {
            "held": of_gpu["held"]
        }
    return Constants(**found)
