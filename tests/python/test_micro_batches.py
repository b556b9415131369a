"""Which losses and layers let the planner go through a batch in parts, and what it says of the others."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from moai.planning import plan_graph, record_step
from moai.planning.command import with_memory
from moai.planning.models import PlanModel
from torch import Tensor, nn


class Encoder(nn.Module):
    """A sequence of tokens to one vector."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.embed = nn.Embedding(1000, 256)
        self.up, self.norm, self.down = nn.Linear(256, 512), norm(512), nn.Linear(512, 256)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.down(F.relu(self.norm(self.up(self.embed(tokens).mean(1)))))


def of_each_sample(model: nn.Module, tokens: Tensor) -> Tensor:
    return model(tokens).square().mean()


def contrastive(model: nn.Module, tokens: Tensor) -> Tensor:
    """Each sample beside a changed one, against all others (van den Oord et al. 2018)."""
    ours, theirs = (F.normalize(model(seen), dim=-1) for seen in (tokens, tokens + 1))
    return F.cross_entropy(ours @ theirs.t() / 0.1, torch.arange(tokens.shape[0], device=tokens.device))


def contrastive_of_products(model: nn.Module, tokens: Tensor) -> Tensor:
    """The same of vectors of any length."""
    ours, theirs = model(tokens), model(tokens + 1)
    return F.cross_entropy(ours @ theirs.t(), torch.arange(tokens.shape[0], device=tokens.device))


@pytest.mark.parametrize(
    ("norm", "loss", "says"),
    [
        (nn.LayerNorm, of_each_sample, None),
        (nn.BatchNorm1d, of_each_sample, r"aten\.native_batch_norm needs the whole batch: its statistics are over the batch"),
        (nn.LayerNorm, contrastive, r"aten\.mm pairs every sample with every other"),
        (nn.LayerNorm, contrastive_of_products, r"aten\.mm pairs every sample with every other"),
    ],
    ids=["independent", "batch norm", "contrastive", "contrastive of products"],
)  # fmt: skip
def test_what_needs_the_whole_batch_goes_through_it_at_once(
    norm: Callable[[int], nn.Module], loss: Callable, says: str | None
) -> None:
    """On a device without the memory for the whole batch, so that all who may take turns do."""
    graph, _ = record_step(PlanModel(lambda: Encoder(norm), loss, torch.float32), 4096, 16)
    found = plan_graph(graph, with_memory("h100:1", 40 * 2**20))
    plans = [found, *found["runners_up"], *found["too_large"]]
    assert max(plan["micro_batches"] for plan in plans) == 1 or says is None
    if says is None:
        assert not found["no_micro_batches"] and found["micro_batches"] > 1
    else:
        assert re.fullmatch(says, found["no_micro_batches"]), found["no_micro_batches"]
