"""Scenarios: what a script could see, on the CPU and on moai.

A scenario is a function of a device that returns tensors, numbers, texts, modules and lists of these. It runs once on the CPU and
three times on moai, which sees it for the first time, follows its own trace, and runs a planned program: each must return the
same.

    scenario = Scenarios()

    @scenario
    def halves_add_up(device):
        return torch.ones(2, device=device) / 2 + 0.5

    test_is_as_on_the_cpu = scenario.test()
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy
import pytest
import torch
from torch import nn

RUNS = 3


class Scenarios:
    """The scenarios of one file; decorates them."""

    def __init__(self) -> None:
        self.rows: list = []

    def __call__(self, function: Callable[[str], object]) -> Callable[[str], object]:
        self.rows.append(pytest.param(function, id=function.__name__))
        return function

    def add(self, name: str, function: Callable[[str], object]) -> None:
        self.rows.append(pytest.param(function, id=name))

    def test(self) -> Callable:
        """The test of all of them; the last line of a file."""

        @pytest.mark.parametrize("run", self.rows)
        def test_is_as_on_the_cpu(run: Callable[[str], object]) -> None:
            torch.manual_seed(0)
            wanted = on_host(run("cpu"))
            for time in range(RUNS):
                torch.manual_seed(0)
                assert_same(on_host(run("moai")), wanted, f"run {time}: result")

        return test_is_as_on_the_cpu


def on_host(seen: object) -> object:
    """`seen` with every tensor on the CPU; modules and optimizers by their state."""
    if isinstance(seen, torch.Tensor):
        return seen.detach().cpu()
    if isinstance(seen, (nn.Module, torch.optim.Optimizer)):
        return on_host(seen.state_dict())
    if isinstance(seen, dict):
        return {key: on_host(value) for key, value in seen.items()}
    if isinstance(seen, (list, tuple)) or hasattr(seen, "__next__"):
        return [on_host(value) for value in seen]
    if isinstance(seen, str):
        return re.sub(r",\s+device='moai:0'", "", re.sub(r"\bcpu\b", "moai", seen))
    return seen


def assert_same(got: object, wanted: object, where: str) -> None:
    assert type(got) is type(wanted), where
    if isinstance(wanted, dict):
        assert got.keys() == wanted.keys(), where
        for key in wanted:
            assert_same(got[key], wanted[key], f"{where}[{key!r}]")
    elif isinstance(wanted, list):
        assert len(got) == len(wanted), where
        for n, pair in enumerate(zip(got, wanted, strict=True)):
            assert_same(*pair, f"{where}[{n}]")
    elif isinstance(wanted, (torch.Tensor, numpy.ndarray, float)):
        is_double = getattr(wanted, "dtype", None) in (torch.float64, numpy.float64)
        tolerance = {"rtol": 1e-9, "atol": 1e-9} if is_double else {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(
            got, wanted, equal_nan=True, msg=lambda text: f"{where}: {text}", **tolerance
        )
    else:
        assert got == wanted, where


def mlp(device: str, *more: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), *more, nn.Linear(8, 2)).to(device)


def batch(device: str, rows: int = 3) -> torch.Tensor:
    return torch.randn(rows, 4).to(device)


def leaf(device: str, *shape: int) -> torch.Tensor:
    return torch.randn(*shape).to(device).requires_grad_()


def equal_on_both(script: Callable[[str], list[torch.Tensor]]) -> None:
    """The script returns the same on moai and on the CPU, to 1e-12."""
    results = []
    for device in ("moai", "cpu"):
        torch.manual_seed(0)
        results.append([t.detach().cpu() for t in script(device)])
    torch.testing.assert_close(*results, atol=1e-12, rtol=1e-12)
