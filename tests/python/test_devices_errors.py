"""Indices that are out of range, on several devices: what eager raises, whoever has which part of the table."""

from __future__ import annotations

import re
from collections.abc import Callable

import moai
import pytest
import torch
import torch.nn.functional as F
from moai import options
from test_devices import devices
from test_errors import TRAINERS, On, error_of, small_model, state_of, step

SEEDS = range(6)

OUT_OF_RANGE: dict[str, Callable[[On], torch.Tensor]] = {
    "embedding": lambda on: F.embedding(on.i(0, 9), on.f(9, 4)),
    "embedding_below": lambda on: F.embedding(on.i(0, -1), on.f(9, 4)),
    "index_select": lambda on: on.f(4, 9).index_select(1, on.i(9, 3)),
    "index": lambda on: on.f(9, 4)[on.i(3, 9)],
    "index_below": lambda on: on.f(9, 4)[on.i(-1, -10)],
    "index_of_a_later_dim": lambda on: on.f(4, 9)[:, on.i(3, 9)],
    "gather": lambda on: on.f(4, 9).gather(1, on.i(9, 1, 2, 3).view(4, 1)),
    "nll_loss": lambda on: F.nll_loss(on.f(4, 9), on.i(0, 9, 1, 2)),
    "nll_loss_below": lambda on: F.nll_loss(on.f(4, 9), on.i(0, -1, 1, 2), reduction="sum"),
    "nll_loss_of_images": lambda on: F.nll_loss(on.f(2, 9, 3, 1), on.i(0, 9, 1, 2, 3, 4).view(2, 3, 1)),
}


@pytest.mark.parametrize("call", OUT_OF_RANGE.values(), ids=OUT_OF_RANGE.keys())
def test_an_index_out_of_range_raises_what_eager_raises(call: Callable) -> None:
    expected, text = error_of(call, "cpu")
    for seed in SEEDS:
        with devices(3, f"random:{seed}"):
            kept = torch.arange(7.0).to("moai")
            moai.sync()
            kept.add_(1)
            result = call(On("moai"))
            with pytest.raises(expected) as caught:
                result.cpu()
            assert re.sub(r"moai(:0)?|cpu", "DEVICE", str(caught.value)).startswith(text)
            assert kept.tolist() == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("plan", ["tp=3", "dp=3", *(f"random:{seed}" for seed in SEEDS)])
@pytest.mark.parametrize("make", TRAINERS.values(), ids=TRAINERS.keys())
def test_a_failed_step_leaves_weights_and_optimizer(make: Callable, plan: str) -> None:
    with devices(3, plan):
        model = small_model("moai")
        optimizer = make(model.parameters())
        step(model, optimizer, [1, 2, 3])
        before = state_of(model, optimizer)
        with pytest.raises(IndexError, match="index out of range in self"):
            step(model, optimizer, [1, 99, 2]).item()
        torch.testing.assert_close(state_of(model, optimizer), before, rtol=0, atol=0)


def test_a_plan_that_cannot_be_leaves_things_as_they_were() -> None:
    with devices(2, "dp=2"):
        with pytest.raises(ValueError, match="take 3 devices, and cpu:2 has 2"):
            moai.configure(plan="dp=3")
        assert (torch.ones(4, 4, device="moai") @ torch.ones(4, 4, device="moai")).sum().item() == 64


def test_gpus_are_counted_by_their_numbers() -> None:
    try:
        moai.configure(devices="cuda:0-3", plan="dp=4")  # looked for when they are first used
        with pytest.raises(ValueError, match="take 3 devices, and cuda:0-3 has 4"):
            moai.configure(plan="dp=3")
    finally:
        moai.configure(devices="cpu", plan="fastest")


def test_what_fails_by_itself_does_not_keep_a_plan() -> None:
    with devices(2, "dp=2"):
        lost = F.embedding(torch.tensor([9]).to("moai"), torch.ones(9, 4).to("moai"))
        with pytest.raises(IndexError):
            moai.configure(plan="fastest")
        del lost
        assert options.value("plan") == "fastest"


def test_what_fails_under_a_plan_does_not_keep_it() -> None:
    """A pin that no step of the script can have: what is recorded fails, and the next plan is taken."""
    with devices(2, "dp=2"):
        weight = torch.ones(4, 4, device="moai", requires_grad=True)
        (weight @ weight).sum().backward()
        with pytest.raises(RuntimeError, match="dp=2 splits nothing"):
            moai.configure(plan="fastest")
        assert (torch.ones(4, 4, device="moai") @ torch.ones(4, 4, device="moai")).sum().item() == 64
