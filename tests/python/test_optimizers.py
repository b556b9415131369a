"""Optimizers and schedules step as on the CPU, also after a step that failed."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
from scenarios import Scenarios, batch, leaf, mlp
from torch import nn

scenario = Scenarios()


OPTIMIZERS = {
    "adadelta": lambda p: torch.optim.Adadelta(p),
    "adafactor": lambda p: torch.optim.Adafactor(p),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "adam_amsgrad": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
    "adam_tensor_lr": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.1), foreach=False),
    "adamw_capturable_off": lambda p: torch.optim.AdamW(p, lr=0.1, maximize=True),
    "adamw_differentiable_off": lambda p: torch.optim.AdamW(
        p, lr=0.1, betas=(0.5, 0.9), eps=1e-3, foreach=False
    ),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.1),
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.1),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.1),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "sgd_nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "sgd_fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "adagrad_fused": lambda p: torch.optim.Adagrad(p, lr=0.1, fused=True),
}


def steps_of(make: Callable, device: str) -> object:
    model = mlp(device)
    optimizer = make(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=10, cycle_momentum=False)
    losses = []
    for _ in range(6):
        loss = model(batch(device)).square().mean()
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return losses, model


for _name, _make in OPTIMIZERS.items():
    scenario.add(f"optimizer_{_name}", lambda device, make=_make: steps_of(make, device))

SCHEDULES = {
    "step": lambda o: torch.optim.lr_scheduler.StepLR(o, 2, 0.5),
    "cosine_restarts": lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    "warm_up": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o, [torch.optim.lr_scheduler.LinearLR(o), torch.optim.lr_scheduler.ExponentialLR(o, 0.8)], [3]
    ),
    "cyclic_momentum": lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=2),
}


def schedule_of(make: Callable, device: str) -> object:
    model = mlp(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule, rates = make(optimizer), []
    for _ in range(8):
        model(batch(device)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        rates.append(schedule.get_last_lr()[0])
    return rates, model


for _name, _make in SCHEDULES.items():
    scenario.add(f"schedule_{_name}", lambda device, make=_make: schedule_of(make, device))


@scenario
def a_schedule_that_reads_the_loss(device):
    model = mlp(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    for _ in range(5):
        loss = model(torch.ones(2, 4, device=device)).sum().cos() + 1
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step(loss.detach() * 0 + 1)
    return schedule.get_last_lr(), model


@scenario
def lbfgs_calls_back(device):
    model, x = mlp(device), batch(device)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = (model(x) - 1).square().mean()
        loss.backward()
        return loss

    return [optimizer.step(closure).item() for _ in range(2)]


@scenario
def parameter_groups_have_their_own_rates(device):
    model = mlp(device)
    optimizer = torch.optim.AdamW(
        [{"params": model[0].parameters(), "lr": 0.01, "weight_decay": 0.0}], lr=0.1
    )
    optimizer.add_param_group({"params": list(model[2].parameters())})
    for step in range(4):
        model(batch(device)).square().mean().backward()
        optimizer.param_groups[1]["lr"] = 0.1 / (step + 1)
        optimizer.step()
        optimizer.zero_grad()
    return model


@scenario
def gradients_are_clipped(device):
    model = mlp(device)
    norms = []
    for clip in (
        lambda p: nn.utils.clip_grad_norm_(p, 0.1),
        lambda p: nn.utils.clip_grad_norm_(p, 0.1, norm_type=float("inf"), foreach=False),
        lambda p: nn.utils.clip_grad_value_(p, 0.01),
        lambda p: nn.utils.clip_grad_norm_(p, 1e9, error_if_nonfinite=True),
    ):
        model.zero_grad(set_to_none=False)
        (model(batch(device)) * 10).square().sum().backward()
        norms.append(clip(model.parameters()))
    return norms, [p.grad for p in model.parameters()]


@scenario
def optimizer_state_goes_on_elsewhere(device):
    model = mlp(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)

    def steps(model, optimizer, n):
        for i in range(n):
            model(torch.full((2, 4), float(i)).to(next(model.parameters()).device)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    steps(model, optimizer, 2)
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], file)
    for other in ("cpu", device):
        file.seek(0)
        weights, moments = torch.load(file, map_location="cpu")
        again = mlp(other)
        again.load_state_dict(weights)
        resumed = torch.optim.AdamW(again.parameters(), lr=0.5)
        resumed.load_state_dict(moments)
        steps(again, resumed, 2)
    steps(model, optimizer, 2)
    return (
        model,
        again,
        [
            a.device == b.device
            for a, b in zip(again.parameters(), resumed.param_groups[0]["params"], strict=True)
        ],
    )


@scenario
def an_exception_in_the_middle_of_a_step_leaves_no_trace(device):
    model = mlp(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(6):
        x = batch(device)
        try:
            optimizer.zero_grad()
            out = model(x)
            if step == 1:
                raise KeyError("the script's own")
            if step == 2:
                out @ out
            loss = out.square().sum()
            loss.backward()
            if step == 4:
                model(x[:, :3])
            optimizer.step()
        except (KeyError, RuntimeError) as error:
            assert isinstance(error, KeyError) == (step == 1)
    return model, loss


@scenario
def a_hook_that_raises_ends_backward_only(device):
    x = leaf(device, 3)
    y = x * 2
    handle = y.register_hook(lambda gradient: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        y.sum().backward()
    handle.remove()
    (x * 3).sum().backward()
    return x.grad


@scenario
def skipping_a_bad_batch(device):
    model = mlp(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for step in range(5):
        x = batch(device) * (float("inf") if step == 2 else 1.0)
        loss = model(x).square().mean()
        loss = loss * float("nan") if step == 3 else loss
        optimizer.zero_grad()
        loss.backward()
        if torch.isfinite(loss) and all(p.grad.isfinite().all() for p in model.parameters()):
            optimizer.step()
    return model


test_is_as_on_the_cpu = scenario.test()
