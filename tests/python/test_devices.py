"""Training on several devices: losses, gradients and weights are plain PyTorch's, whatever the plan."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import moai
import pytest
import torch
import torch.nn.functional as F
from torch import nn


@contextlib.contextmanager
def devices(count: int, plan: str = "fastest") -> Iterator[None]:
    """Several devices behind `moai`, and one again."""
    moai.configure(devices=f"cpu:{count}", plan=plan)
    try:
        yield
    finally:
        moai.configure(devices="cpu", plan="fastest")


class Gpt(nn.Module):
    """Fused query-key-value, causal attention, tied head."""

    def __init__(
        self, vocab: int = 37, width: int = 12, heads: int = 3, layers: int = 2, seq: int = 6
    ) -> None:
        super().__init__()
        self.heads = heads
        self.tokens, self.places = nn.Embedding(vocab, width), nn.Embedding(seq, width)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(width),
                    "attend": nn.Linear(width, 3 * width),
                    "project": nn.Linear(width, width),
                    "norm2": nn.LayerNorm(width),
                    "up": nn.Linear(width, 4 * width),
                    "down": nn.Linear(4 * width, width),
                }
            )
            for _ in range(layers)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocab, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        b, s = ids.shape
        x = self.tokens(ids) + self.places(torch.arange(s, device=ids.device))
        for block in self.blocks:
            q, k, v = (
                t.view(b, s, self.heads, -1).transpose(1, 2)
                for t in block["attend"](block["norm1"](x)).chunk(3, dim=-1)
            )
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + block["project"](y.transpose(1, 2).reshape(b, s, -1))
            x = x + block["down"](F.gelu(block["up"](block["norm2"](x))))
        return self.head(self.norm(x))


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3)
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean((2, 3)))


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(5, 7, batch_first=True), nn.Linear(7, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x)[0][:, -1])


class Masked(nn.Module):
    """Attention under a mask of queries and keys, of tokens whose gradients are by how often they occur."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(37, 12, scale_grad_by_freq=True)
        self.attend, self.head = nn.Linear(12, 36), nn.Linear(12, 3)
        self.register_buffer("mask", torch.randn(6, 6))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            t.unflatten(-1, (3, 4)).transpose(1, 2) for t in self.attend(self.tokens(ids)).chunk(3, -1)
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        return self.head(F.normalize(y.transpose(1, 2).flatten(2), dim=-1))


def token_batch(step: int, size: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(100 + step)
    ids = torch.randint(37, (size, 7))
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def even_batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    return token_batch(step, 8)


def ignoring_batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Some targets are to be ignored, all of the first sample's among them."""
    ids, targets = even_batch(step)
    targets[targets % 3 == 0] = -100
    targets[0] = -100
    return ids, targets


def weighted_loss(model: nn.Module, batch: tuple) -> torch.Tensor:
    """Classes of different weights; smoothed labels."""
    ids, targets = batch
    weights = torch.linspace(0.5, 2, 37, dtype=torch.float64, device=ids.device)
    logits = model(ids).flatten(0, 1)
    return F.cross_entropy(logits, targets.flatten(), weights) + F.cross_entropy(
        logits, targets.flatten(), label_smoothing=0.1
    )


def summed_loss(model: nn.Module, batch: tuple) -> torch.Tensor:
    """A sum over what is not ignored, divided by a count from the batch."""
    ids, targets = batch
    sum_ = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten(), reduction="sum")
    return sum_ / (targets != -100).sum()


def regression_loss(model: nn.Module, batch: tuple) -> torch.Tensor:
    """Means over all elements, each by an op of its own."""
    ids, targets = batch
    got, wanted = (
        model(ids),
        (targets % 3)[..., None].double() * torch.ones(3, dtype=torch.float64, device=ids.device),
    )
    means = F.mse_loss(got, wanted) + F.smooth_l1_loss(got, wanted) + F.huber_loss(got, wanted, delta=0.5)
    return means + F.binary_cross_entropy(got.sigmoid(), wanted / 2) + F.soft_margin_loss(got, wanted - 1)


def tokens_loss(model: nn.Module, batch: tuple) -> torch.Tensor:
    return F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


def float_batch(*sizes: int, classes: int) -> Callable[[int], tuple[torch.Tensor, torch.Tensor]]:
    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(100 + step)
        return torch.randn(*sizes, dtype=torch.float64), torch.randint(classes, (sizes[0],))

    return batch


def class_loss(model: nn.Module, batch: tuple) -> torch.Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


MODELS = {
    "gpt": (Gpt, token_batch, tokens_loss),
    "gpt_even": (Gpt, even_batch, tokens_loss),
    "gpt_weighted": (Gpt, ignoring_batch, weighted_loss),
    "gpt_summed": (Gpt, ignoring_batch, summed_loss),
    "regression": (Masked, even_batch, regression_loss),
    "conv": (Conv, float_batch(6, 3, 8, 8, classes=5), class_loss),
    "lstm": (Lstm, float_batch(5, 4, 5, classes=4), class_loss),
}


def train(device: str, name: str, steps: int = 3) -> list[torch.Tensor]:
    """Losses, then gradients and weights after the last step, in fp64."""
    make, batch_of, loss_of = MODELS[name]
    torch.manual_seed(0)
    model = make().double().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(steps):
        batch = tuple(t.to(device) for t in batch_of(step))
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
    results = losses + [p.grad for p in model.parameters()] + list(model.state_dict().values())
    return [t.cpu() for t in results]


def assert_same_training(name: str) -> None:
    for got, wanted in zip(train("moai", name), train("cpu", name), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("count", [2, 3])
def test_planned(name: str, count: int) -> None:
    with devices(count):
        assert_same_training(name)


PINNED = [
    (2, "dp=2"),
    (2, "dp=2,micro=2"),
    (2, "dp=2,micro=4,recompute=selective"),
    (2, "dp=2,zero=1"),
    (2, "dp=2,zero=3,micro=2,recompute=full"),
    (2, "tp=2,micro=8"),
    (3, "tp=3"),
    (2, "sp=2"),
    (4, "dp=2,tp=2,micro=2"),
    (4, "dp=2,sp=2,zero=3"),
    (8, "dp=2,sp=2,tp=2,zero=1,micro=2"),
]


@pytest.mark.parametrize("name", ["gpt_even", "gpt_weighted", "gpt_summed", "regression"])
@pytest.mark.parametrize(("count", "plan"), PINNED, ids=lambda v: str(v))
def test_pinned(name: str, count: int, plan: str) -> None:
    with devices(count, plan):
        assert_same_training(name)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("count", [2, 3, 4])
def test_any_plan(name: str, count: int) -> None:
    for seed in range(3):
        with devices(count, f"random:{seed}"):
            assert_same_training(name)
