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


@pytest.mark.parametrize("name", ["gpt_even", "gpt_weighted", "gpt_summed", "conv", "lstm"])
@pytest.mark.parametrize(("count", "plan"), PLANS, ids=lambda v: str(v))
def test_stages(name: str, count: int, plan: str) -> None:
    with devices(count, plan):
        assert_same_training(name)
