"""What forward keeps for backward waits on the host: the same numbers, in less of a device's memory."""

from __future__ import annotations

import moai
import pytest
import torch
from moai import _C
from test_devices import assert_same_training, devices
from torch import nn

LAYERS, ROWS, WIDTH = 24, 4096, 32
ACTIVATION = ROWS * WIDTH * 8  # bytes of one layer's, on one of two devices

PLANS = [
    (1, "offload=activations"),
    (1, "offload=activations,recompute=full,micro=2"),
    (2, "dp=2,offload=activations"),
    (2, "tp=2,offload=activations,micro=2"),
    (2, "sp=2,offload=activations,recompute=selective"),
    (2, "pp=2,micro=4,offload=activations"),
    (2, "pp=2,micro=4,order=zero_bubble,offload=activations"),
    (4, "dp=2,tp=2,zero=3,micro=2,offload=activations,recompute=full"),
    (4, "dp=2,pp=2,micro=2,offload=activations"),
]


@pytest.mark.parametrize("name", ["gpt_even", "gpt_summed"])
@pytest.mark.parametrize(("count", "plan"), PLANS, ids=str)
def test_same_numbers(name: str, count: int, plan: str) -> None:
    with devices(count, plan):
        assert_same_training(name)
        assert "activations on the host" in moai.explain()
        assert all(device["host_peak_bytes"] > 0 for device in moai.stats()["devices"])


@pytest.mark.parametrize("name", ["conv", "lstm"])
def test_same_numbers_of_other_families(name: str) -> None:
    with devices(2, "offload=activations"):
        assert_same_training(name)


@pytest.mark.parametrize(("kind", "count"), [("apart", 1), ("apart", 2), ("fused", 1)])
def test_same_numbers_where_the_device_has_memory_of_its_own(kind: str, count: int) -> None:
    """As a GPU has it; with fused kernels, too."""
    moai.sync()
    _C.shut_down()
    _C.configure_devices(kind, count, (), -1, "offload=activations,micro=2")
    try:
        assert_same_training("gpt_even")
        assert all(device["host_peak_bytes"] > 0 for device in moai.stats()["devices"])
    finally:
        moai.configure(devices="cpu", plan="fastest")


def train(device: str, samples: int) -> list[torch.Tensor]:
    """Losses, then weights, of a model with far more in its activations than in its weights.

    Each device has one sample, so that turns cannot help.
    """
    torch.manual_seed(0)
    layers = [module for _ in range(LAYERS) for module in (nn.Linear(WIDTH, WIDTH, bias=False), nn.Tanh())]
    model = nn.Sequential(*layers, nn.Linear(WIDTH, 1, bias=False)).double().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for step in range(3):
        torch.manual_seed(step)
        x = torch.randn(samples, ROWS, WIDTH, dtype=torch.float64).to(device)
        optimizer.zero_grad()
        loss = model(x).pow(2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return [t.cpu() for t in [*losses, *model.parameters()]]


def limited(count: int, activations: float, plan: str) -> tuple[list[torch.Tensor], str, list[dict]]:
    """Losses and weights with so much memory on each device, what was said of the plan, and the devices after it."""
    limit = int(activations * ACTIVATION)
    moai.configure(devices=f"cpu:{count}", device_memory=str(limit), plan=plan)
    try:
        results = train("moai", count)
        found = moai.stats()["devices"]
        assert max(device["peak_bytes"] for device in found) <= limit
        return results, moai.explain(), found
    finally:
        moai.configure(devices="cpu", device_memory="", plan="fastest")


def test_what_fits_in_no_other_way_is_trained_with_activations_on_the_host() -> None:
    room = 5
    with pytest.raises(torch.OutOfMemoryError):
        limited(2, room, "offload=none")
    results, told, found = limited(2, room, "fastest")
    assert "activations on the host" in told and "on the host" in told.splitlines()[-1]
    assert min(device["host_peak_bytes"] for device in found) > 0
    for ours, theirs in zip(results, train("cpu", 2), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_one_device_keeps_its_limit_with_a_pin() -> None:
    room = 9
    with pytest.raises(torch.OutOfMemoryError):
        limited(1, room, "fastest")
    results, _, found = limited(1, room, "offload=activations")
    assert found[0]["host_peak_bytes"] > 4 * ACTIVATION
    for ours, theirs in zip(results, train("cpu", 1), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_a_pin_that_is_none_says_so() -> None:
    with pytest.raises(ValueError, match="would work: none, activations"):
        moai.plan("gpt2", 8, 256, "h100:2", pin="offload=weights")


def test_the_report_says_what_waits_on_the_host() -> None:
    found = moai.plan("gpt2", 8, 256, "h100:2", pin="dp=2,offload=activations")
    assert found["offload"] == "activations" and found["host_bytes"] > 0
    assert found["time"]["host_s"] > 0
    from moai.planning.report import parts, report

    assert sum(parts(found).values()) == pytest.approx(found["step_time_s"], rel=1e-6)
    text = report(found | {"model": "gpt2", "parameters": 1})
    assert "on the host" in text and "moai.to_host" not in text.split("ops, on one device")[0]
    here = moai.plan("gpt2", 8, 256, "h100:2", pin="dp=2")
    assert here["peak_bytes"] > found["peak_bytes"]
    assert "on the host" not in report(here | {"model": "gpt2", "parameters": 1})
    again = moai.plan("gpt2", 8, 256, "h100:2", saved=found["plan"])
    assert again["offload"] == "activations"
    assert again["peak_bytes"] == pytest.approx(found["peak_bytes"])
