"""Autocast and the gradient scaler, as on CUDA and with the CPU's numbers."""

from __future__ import annotations

import functools
import io

import moai
import pytest
import torch
from small_nets import D, net, rows, same
from torch import nn


def scaled_training(device: str, make, watch=lambda optimizer: None) -> tuple[list, nn.Module, object]:
    """Eight steps under a scaler, of which two overflow, the first among them: why each cut, the model, its optimizer."""
    torch.manual_seed(0)
    model = nn.Linear(4, 4).to(device)
    optimizer = make(model.parameters())
    watch(optimizer)
    scaler = torch.amp.GradScaler(device, init_scale=1024.0, growth_interval=2)
    cuts = []
    for step in range(8):
        moai.reset_stats()
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = model(rows(device)).square().sum() * (float("inf") if step in (0, 4) else 1.0)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        cuts.append(moai.stats()["cut_reasons"])
    assert scaler.get_scale() == 1024.0  # halved twice, doubled twice
    return cuts, model, optimizer


def counted_steps(optimizer) -> set[float]:
    return {float(state["step"]) for state in optimizer.state.values() if "step" in state}


optim = torch.optim
READS = {"host read": 1, "optimizer step": 1}
ONE_CUT = {"optimizer step": 1}
SCALED = {
    "adamw": (optim.AdamW, {}, ONE_CUT),
    "adamw_fused": (optim.AdamW, {"fused": True}, ONE_CUT),
    "adam": (optim.Adam, {"amsgrad": True, "weight_decay": 0.1, "maximize": True}, ONE_CUT),
    "sgd": (optim.SGD, {}, ONE_CUT),
    "sgd_momentum": (optim.SGD, {"momentum": 0.9, "nesterov": True}, ONE_CUT),
    "sgd_dampened": (optim.SGD, {"momentum": 0.9, "dampening": 0.5}, ONE_CUT),
    # What the script chose stays, and torch has no fused step for the rest: the scaler asks whether to step at all.
    "adamw_foreach": (optim.AdamW, {"foreach": True}, READS),
    "adamw_loop": (optim.AdamW, {"fused": False}, READS),
    "rmsprop": (optim.RMSprop, {}, READS),
}


@pytest.mark.parametrize(("kind", "options", "cuts"), SCALED.values(), ids=SCALED)
def test_the_scaler_steps_as_on_the_cpu_and_reads_nothing_that_a_fused_step_can_take(kind, options, cuts):
    def make(parameters):
        return kind(parameters, lr=0.1, **options)

    _, host, hosts = scaled_training("cpu", make)
    seen, device, ours = scaled_training(D, make)
    assert seen[-1] == cuts
    assert seen[4] == (ONE_CUT if cuts == ONE_CUT else {"host read": 1})
    same(device.weight, host.weight, 1e-2)
    assert counted_steps(ours) == counted_steps(hosts), "a skipped step does not count"


WATCHERS = {
    "schedule": (lambda optimizer: optim.lr_scheduler.StepLR(optimizer, 100), ONE_CUT),
    "hook": (lambda optimizer: optimizer.register_step_pre_hook(lambda *step: None), READS),
    "wrapper": (lambda optimizer: setattr(optimizer, "step", functools.partial(optimizer.step)), READS),
}


@pytest.mark.parametrize(("watch", "cuts"), WATCHERS.values(), ids=WATCHERS)
def test_whoever_counts_steps_is_not_told_of_one_that_was_skipped(watch, cuts):
    seen, _, optimizer = scaled_training(D, lambda parameters: optim.AdamW(parameters, lr=0.1), watch)
    assert seen[-1] == cuts and counted_steps(optimizer) == {6.0}


@pytest.mark.parametrize("device", ["cpu", D])
def test_the_state_of_an_optimizer_that_became_fused_goes_on_anywhere(device):
    _, model, optimizer = scaled_training(D, lambda parameters: optim.AdamW(parameters, lr=0.1))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other = nn.Linear(4, 4).to(device)
    other.load_state_dict(model.state_dict())
    again = optim.AdamW(other.parameters(), lr=0.1)
    again.load_state_dict(torch.load(file, map_location=device))
    for network, update in ((model, optimizer), (other, again)):
        network(rows(network.weight.device)).sum().backward()
        moai.reset_stats()
        update.step()
        assert moai.stats()["cut_reasons"].keys() <= {"optimizer step"}
    same(other.weight, model.weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_chooses_the_types_that_cuda_chooses(dtype):
    model, x = net().to(D), rows(D)
    with torch.autocast(D, dtype=dtype):
        out = model(x)
        assert out.dtype == dtype and (x @ x.T).dtype == dtype
        assert out.softmax(-1).dtype == out.exp().dtype == x.sum().dtype == torch.float32
        assert torch.get_autocast_dtype(D) == dtype and torch.is_autocast_enabled(D)
        with torch.autocast(D, enabled=False):
            assert model(x).dtype == torch.float32
    assert torch.amp.is_autocast_available(D) and not torch.is_autocast_enabled(D)
