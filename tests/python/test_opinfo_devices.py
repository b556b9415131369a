"""Torch's databases on three devices, each entry under a random plan: equal to the CPU, whatever is split.

What no rule speaks of lies whole; what one does is split nine times in ten, some ops several ways in one graph. Sums
are taken in another order, and held to what that rounds. Other entries under other plans with each commit.
"""

from __future__ import annotations

import moduleinfo
import opinfo
import pytest
from comparing import REORDERED, Outcome
from opinfo_known import known
from sampling import drawn, is_chosen
from test_devices import devices

# What rounds more than its dtype says: steps within are taken in bf16, or a gradient is what large terms leave.
ROUNDED = {
    ("Muon", "float32"): {"rtol": 1e-2, "atol": 2e-2},
    ("Muon", "float64"): {"rtol": 1e-2, "atol": 2e-2},
    ("corrcoef", "bfloat16"): {"rtol": 0.016, "atol": 0.01},
}
# What differences of nearly equal gradients make of rounding, after some steps any digit may show.
AMPLIFIED = {
    ("LBFGS", dtype): "LBFGS carries what another order of sums rounds into every digit: held in fp64 alone"
    for dtype in ("bfloat16", "float16", "float32", "complex64")
}
SHARE = 40
SEEDS = 1000


def entries(pairs: list[tuple[str, str]]) -> list:
    """This commit's share of them, with the plan to run under, but for what is known to differ on one device."""
    chosen = [pair for pair in pairs if is_chosen((*pair, "devices"), SHARE) and not known(*pair)]
    return [
        pytest.param(
            *pair,
            drawn(pair, SEEDS),
            id=":".join(pair),
            marks=pytest.mark.skipif(pair in AMPLIFIED, reason=AMPLIFIED.get(pair, "")),
        )
        for pair in chosen
    ]


def is_as_on_the_cpu(check, name: str, dtype: str, seed: int) -> None:
    with devices(3, f"random:{seed}"):
        outcome: Outcome = check(name, dtype, ROUNDED.get((name, dtype), REORDERED))
    assert outcome.equal, f"random:{seed}: {outcome.report()}"


@pytest.mark.parametrize(("name", "dtype", "seed"), entries(opinfo.EVERYTHING))
def test_op(name, dtype, seed):
    is_as_on_the_cpu(opinfo.check, name, dtype, seed)


@pytest.mark.parametrize(("name", "dtype", "seed"), entries(moduleinfo.MODULE_PAIRS))
def test_module(name, dtype, seed):
    is_as_on_the_cpu(moduleinfo.check_module, name, dtype, seed)


@pytest.mark.parametrize(("name", "dtype", "seed"), entries(moduleinfo.OPTIMIZER_PAIRS))
def test_optimizer(name, dtype, seed):
    is_as_on_the_cpu(moduleinfo.check_optimizer, name, dtype, seed)
