"""Training scripts whose numbers equal the CPU's in fp64: optimizers, schedules, files, reads."""

from __future__ import annotations

import io

import moai
import pytest
import torch
from scenarios import equal_on_both
from torch import nn

F64 = torch.float64


def net64(device: str) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2)).double().to(device)


def steps64(
    model: nn.Module, optimizer: torch.optim.Optimizer, device: str, count: int = 5
) -> list[torch.Tensor]:
    """Losses of some steps, and the weights after them. The batches come from the CPU's generator."""
    losses = []
    for _ in range(count):
        loss = (model(torch.randn(3, 4, dtype=F64).to(device)) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss)
    return [*losses, *model.parameters()]


@pytest.mark.parametrize("kind", ["default", "foreach", "fused"])
@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (torch.optim.AdamW, {}),
        (torch.optim.AdamW, {"amsgrad": True, "maximize": True}),
        (torch.optim.SGD, {}),
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ],
)
def test_steps_of_every_implementation_equal_the_cpus_in_fp64(optimizer, options, kind) -> None:
    chosen = options if kind == "default" else {**options, kind: True}

    def script(device: str) -> list[torch.Tensor]:
        model = net64(device)
        return steps64(model, optimizer(model.parameters(), lr=0.1, **chosen), device)

    equal_on_both(script)


@pytest.mark.parametrize(
    "make",
    [
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (step + 1)),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.2, total_steps=20),
        lambda o: torch.optim.lr_scheduler.StepLR(o, 2, 0.5),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    ],
    ids=["lambda", "one_cycle", "step", "restarts"],
)
def test_schedules_of_every_shape_equal_the_cpus_and_do_not_trace(make) -> None:
    def script(device: str) -> list[torch.Tensor]:
        model = net64(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        schedule, results = make(optimizer), []
        for step in range(12):
            results += steps64(model, optimizer, device, count=1)[:1]
            schedule.step()
            if step == 5:
                before = moai.stats()["traces"]
        assert moai.stats()["traces"] == before
        return [*results, *model.parameters(), torch.tensor(schedule.get_last_lr())]

    equal_on_both(script)


@pytest.mark.parametrize("map_location", [None, "cpu", "moai"])
@pytest.mark.parametrize("written", ["cpu", "moai"])
def test_training_goes_on_from_a_file_of_either_device(written, map_location) -> None:
    model = net64(written)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    steps64(model, optimizer, written)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, map_location=map_location)
    assert saved["model"]["0.weight"].device.type == (map_location or written)
    results = []
    for device, state in (
        ("cpu", {"model": model.state_dict(), "optimizer": optimizer.state_dict()}),
        ("moai", saved),
    ):
        again = net64(device)
        again.load_state_dict(state["model"])
        optimizer_again = torch.optim.AdamW(again.parameters(), lr=0.1)
        optimizer_again.load_state_dict(state["optimizer"])
        torch.manual_seed(1)
        results.append([t.detach().cpu() for t in steps64(again, optimizer_again, device)])
    torch.testing.assert_close(*results, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(
    "read", [torch.Tensor.item, lambda t: bool(t > 1), "{:.3f}".format, torch.Tensor.tolist]
)
def test_a_loss_read_in_any_way_before_backward_changes_nothing(read) -> None:
    def script(device: str) -> list[torch.Tensor]:
        model = net64(device)
        optimizer, seen = torch.optim.AdamW(model.parameters(), lr=0.1), []
        for _ in range(6):
            loss = (model(torch.randn(3, 4, dtype=F64).to(device)) - 1).square().mean()
            seen.append(float(read(loss.detach())))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return [torch.tensor(seen, dtype=F64), *model.parameters()]

    equal_on_both(script)
