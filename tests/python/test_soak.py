"""Many steps: memory stays as it is after the first ones, on the device and on the host."""

from __future__ import annotations

import gc

import moai
import psutil
import pytest
import torch
from sampling import FULL
from test_devices import devices
from torch import nn

STEPS = 1000 if FULL else 150
WARM_UP = STEPS // 5
LENGTHS = (8, 12, 16, 20)


def train(steps: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """A loop as scripts have it: lengths that change, a schedule, clipping, a loss read now and then, a mistake."""
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 1 / (1 + n / 100))
    for step in range(steps):
        tokens = torch.randint(50, (4, LENGTHS[step % len(LENGTHS)])).to("moai")
        loss = nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 10 == 0:
            assert loss.isfinite()
        if step % 50 == 0:
            with pytest.raises(IndexError):
                model(tokens + 1000).sum().item()


def held() -> tuple[int, int]:
    gc.collect()
    moai.sync()
    return moai.stats()["live_bytes"], psutil.Process().memory_info().rss


@pytest.mark.parametrize(("count", "plan"), [(1, "fastest"), (2, "dp=2,zero=1")])
def test_memory_is_flat(count: int, plan: str) -> None:
    with devices(count, plan):
        check_memory()


def check_memory() -> None:
    model = nn.Sequential(
        nn.Embedding(50, 32), nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 50)
    )
    optimizer = torch.optim.AdamW(model.to("moai").parameters(), lr=1e-3)
    train(WARM_UP, model, optimizer)
    device, host = held()
    traces = moai.stats()["traces"]
    train(STEPS - WARM_UP, model, optimizer)
    device_later, host_later = held()
    assert device_later <= device * 1.01
    assert host_later <= host * 1.01
    assert moai.stats()["traces"] - traces <= 4, "a step that was seen is followed"
