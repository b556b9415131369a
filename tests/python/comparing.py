"""What the tests by torch's databases share: an outcome, and how results on moai and on the CPU are compared."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import unittest.mock
from collections import Counter
from collections.abc import Callable, Iterator

import moai
import torch
from torch.testing._comparison import default_tolerances
from torch.utils._pytree import tree_flatten

# A stream that repeats itself is cut, and that is no read.
FORCED_CUTS = ("host read", "op at once", "other thread")


@dataclasses.dataclass
class Outcome:
    """What became of one entry of a database in one dtype: `problems` are differences, `reasons` why it was not
    recorded throughout. `errors` counts wrong calls, `bitwise` says that all values were the CPU's own."""

    name: str
    dtype: str = ""
    cases: int = 0
    errors: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)
    reasons: dict[str, int] = dataclasses.field(default_factory=dict)
    random: bool = False
    bitwise: bool = True
    seconds: float = 0.0

    @property
    def equal(self) -> bool:
        return not self.problems

    @property
    def recorded(self) -> bool:
        return not self.reasons

    def report(self) -> str:
        mark = "differs" if not self.equal else "ok" if self.recorded else "not recorded"
        lines = [f"{self.name} {self.dtype}: {mark}, {self.cases} cases in {self.seconds:.1f} s"]
        lines += [f"    {p}" for p in self.problems]
        lines += [f"    at once: {k} ({v})" for k, v in self.reasons.items()]
        return "\n".join(lines)


def tensors_in(tree: object) -> list[torch.Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, torch.Tensor)]


def spread(items: list, most: int) -> list:
    """At most that many of them, evenly spaced, the first among them."""
    if len(items) <= most:
        return items
    return [items[i * len(items) // most] for i in range(most)]


# A tolerance: sums are taken in another order, so that they are rounded by what is largest among their terms.
REORDERED: dict = {"reordered": True}


def reordered(ours: torch.Tensor, theirs: torch.Tensor) -> tuple[torch.Tensor, dict]:
    """What sums in another order may give, and the tolerance. The largest result stands for the terms, which are not known."""
    rtol, atol = default_tolerances(theirs.dtype)
    if not rtol or not theirs.numel() or ours.shape != theirs.shape:
        return theirs, {}
    largest = theirs.abs().nan_to_num(0, 0, 0).max().item()
    # The parts of a sum that is infinite may be infinite both ways.
    allowed = theirs.masked_fill(ours.isnan() & theirs.isinf(), torch.nan)
    return allowed, {"rtol": rtol, "atol": max(atol, 2 * rtol * largest)}


def same(ours: object, theirs: object, tolerance: dict | None = None, device: str | None = "moai") -> str:
    """How they differ, in a line; empty when they do not. Ours must lie on `device`; None: anywhere."""
    if isinstance(theirs, torch.Tensor):
        if not isinstance(ours, torch.Tensor):
            return f"is a {type(ours).__name__}, not a tensor"
        if ours.layout != torch.strided or theirs.layout != torch.strided:
            return "" if ours.layout == theirs.layout else f"has layout {ours.layout}, not {theirs.layout}"
        if device is not None and ours.device.type != device:
            return f"lies on {ours.device}"
        ours, theirs = ours.detach().cpu(), theirs.detach()
        if tolerance is REORDERED:
            theirs, tolerance = reordered(ours, theirs)
        try:
            torch.testing.assert_close(ours, theirs, equal_nan=True, **(tolerance or {}))
        except AssertionError as error:
            return " ".join(str(error).split())[:300]
        return ""
    if isinstance(theirs, float) and tolerance is REORDERED and math.isclose(ours, theirs, rel_tol=1e-7):
        return ""
    if isinstance(theirs, float) and theirs != theirs:
        return "" if ours != ours else f"{ours} is not nan"
    if isinstance(theirs, (torch.device, torch.storage.UntypedStorage, torch.storage.TypedStorage)):
        return ""
    return "" if ours == theirs else f"{ours} is not {theirs}"


def all_same(
    what: str,
    ours: object,
    theirs: object,
    tolerance: dict | None = None,
    device: str | None = "moai",
) -> Iterator[str]:
    """The differences of two trees of results."""
    got, wanted = tree_flatten(ours)[0], tree_flatten(theirs)[0]
    if len(got) != len(wanted):
        yield f"{len(got)} {what}s, not {len(wanted)}"
        return
    for i, (a, b) in enumerate(zip(got, wanted, strict=True)):
        if difference := same(a, b, tolerance, device):
            yield f"{what} {i}: {difference}"


def equal_tensors(a: object, b: object) -> bool:
    """Are the strided tensors of two trees the same, wherever they lie?"""
    pairs = list(zip(tensors_in(a), tensors_in(b), strict=True))
    pairs = [(x.detach().cpu(), y.detach().cpu()) for x, y in pairs if y.layout == torch.strided]
    return all(x.shape == y.shape and bool(((x == y) | ((x != x) & (y != y))).all()) for x, y in pairs)


def is_random(run: Callable[[], object], once: object) -> bool:
    """Does the CPU itself give other numbers with another seed?"""
    for seed in range(8):  # two may agree on a few draws
        torch.manual_seed(seed)
        with unittest.mock.patch("torch.manual_seed"):  # the databases fix seeds of their own
            if not equal_tensors(run(), once):
                return True
    return False


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def not_recorded(before: dict, after: dict) -> dict[str, int]:
    """Ops that ran at once between two `moai.stats()`, or the reads where there are none."""
    reasons = Counter(after["at_once"])
    reasons.subtract(before["at_once"])
    if not any(reasons.values()):
        for reason in FORCED_CUTS:
            reasons[reason] = after["cut_reasons"].get(reason, 0) - before["cut_reasons"].get(reason, 0)
    return {name: count for name, count in reasons.items() if count > 0}


def error_of(run: Callable[[], object]) -> BaseException | None:
    """What the call raises, at once or when its results are read."""
    try:
        for tensor in tensors_in(run()):
            tensor.cpu()
    except Exception as error:  # noqa: BLE001
        return error
    finally:
        with contextlib.suppress(RuntimeError):
            moai.sync()
    return None


def text_of(error: BaseException) -> str:
    """Its words, devices and C++ frames left out."""
    text = str(error).split("\nException raised from")[0]
    text = re.sub(r",\s+device='moai:0'|(?<=torch\.)moai\.", "", text)
    text = re.sub(r"moai:0|privateuseone:0|moai|PrivateUse1", "cpu", text)
    return " ".join(text.split())


def differing_error(ours: BaseException | None, theirs: BaseException) -> str:
    """How the error differs from the CPU's, in a line; ours may say more behind it."""
    wanted = f"{type(theirs).__name__}: {text_of(theirs)}"
    if ours is None:
        return f"no error, where the CPU says {wanted[:200]}"
    got = f"{type(ours).__name__}: {text_of(ours)}"
    return "" if got.startswith(wanted) else f"{got[:200]}, where the CPU says {wanted[:200]}"
