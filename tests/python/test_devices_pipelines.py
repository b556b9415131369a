"""Training in the stages of a pipeline: losses, gradients and weights are plain PyTorch's, in any order of tasks."""

from __future__ import annotations

import moai
import pytest
import torch
from test_devices import Gpt, assert_same_training, devices, token_batch, tokens_loss, train

PLANS = [
    (2, "pp=2,micro=4"),
    (2, "pp=2,micro=1"),
    (2, "pp=2,micro=8,order=gpipe"),
    (2, "pp=2,micro=4,order=1f1b,chunks=2"),
    (2, "pp=2,micro=4,order=zero_bubble"),
    (2, "pp=2,micro=4,recompute=full"),
    (3, "pp=3,micro=4"),
    (4, "pp=4,micro=8,order=zero_bubble"),
    (4, "pp=2,dp=2,micro=2"),
    (4, "pp=2,tp=2,micro=4,recompute=selective"),
    (8, "pp=2,dp=2,tp=2,zero=3,micro=2"),
]


@pytest.mark.parametrize("name", ["gpt_even", "gpt_weighted", "gpt_summed"])
@pytest.mark.parametrize(("count", "plan"), PLANS, ids=lambda v: str(v))
def test_stages(name: str, count: int, plan: str) -> None:
    with devices(count, plan):
        assert_same_training(name)
        assert f"pipeline {plan[3]}" in moai.explain()


@pytest.mark.parametrize("name", ["conv", "lstm"])
@pytest.mark.parametrize(("count", "plan"), [(2, "pp=2"), (4, "pp=2,dp=2")])
def test_a_batch_that_cannot_be_divided(name: str, count: int, plan: str) -> None:
    """Batch norm sees all of a batch, and five samples have no equal parts: the stages run one after the other."""
    with devices(count, plan):
        assert_same_training(name)


def test_more_stages_than_layers() -> None:
    with (
        devices(4, "pp=4,chunks=4"),
        pytest.raises(
            RuntimeError,
            match="pp=4,chunks=4 cannot be: forward has . stretches, too few for 16 virtual stages",
        ),
    ):
        train("moai", "gpt_even")


def test_evaluation_runs_where_the_weights_lie() -> None:
    """Between two training steps, without moving a weight."""

    def losses(device: str) -> list[float]:
        torch.manual_seed(0)
        model = Gpt().double().to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        seen = []
        for step in range(4):
            batch = tuple(t.to(device) for t in token_batch(step, 8))
            optimizer.zero_grad()
            tokens_loss(model, batch).backward()
            optimizer.step()
            with torch.no_grad():
                seen.append(tokens_loss(model, batch).item())
        return seen

    with devices(2, "pp=2,micro=4"):
        got = losses("moai")
    assert got == pytest.approx(losses("cpu"), rel=1e-10)
