"""What scripts do besides a plain training step, on several devices: the same numbers as on the CPU, under any plan."""

from __future__ import annotations

import copy
from collections.abc import Callable

import moai
import pytest
import torch
import torch.nn.functional as F
from test_devices import Gpt, devices, even_batch, tokens_loss
from torch import nn

PLANS = [
    (2, "fastest"),
    (4, "dp=2,tp=2"),
    (2, "dp=2,zero=3,micro=2"),
    (2, "pp=2,micro=2"),
    (3, "random:3"),
    (2, "random:4"),
]
Results = list[torch.Tensor]


def gpt(device: str) -> Gpt:
    torch.manual_seed(0)
    return Gpt().double().to(device)


def batch_on(device: str, step: int, size: int = 8) -> tuple[torch.Tensor, ...]:
    return tuple(t[:size].to(device) for t in even_batch(step))


def weights(model: nn.Module) -> Results:
    return list(model.state_dict().values())


def gradients_accumulated_by_the_script(device: str) -> Results:
    model = gpt(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(4):
        (tokens_loss(model, batch_on(device, step)) / 2).backward()
        if step % 2:
            optimizer.step()
            optimizer.zero_grad()
    return weights(model)


def two_optimizers(device: str) -> Results:
    model = gpt(device)
    groups = list(model.blocks[0].parameters()), list(model.blocks[1].parameters())
    optimizers = torch.optim.AdamW(groups[0], lr=1e-2), torch.optim.SGD(groups[1], lr=1e-1)
    for step in range(3):
        tokens_loss(model, batch_on(device, step)).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return weights(model)


def a_last_batch_that_is_smaller(device: str) -> Results:
    model = gpt(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step, size in enumerate((8, 8, 3, 8, 3)):
        optimizer.zero_grad()
        loss = tokens_loss(model, batch_on(device, step, size))
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses + weights(model)


def evaluation_in_the_middle(device: str) -> Results:
    model = gpt(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    seen = []
    for step in range(4):
        optimizer.zero_grad()
        tokens_loss(model, batch_on(device, step)).backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            logits = model(batch_on(device, 9, 5)[0])
            seen += [logits, logits.argmax(-1)]
        model.train()
    return seen + weights(model)


def a_loss_that_is_read_before_backward(device: str) -> Results:
    model = gpt(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(4):
        optimizer.zero_grad()
        loss = tokens_loss(model, batch_on(device, step))
        losses.append(torch.tensor(loss.item(), dtype=torch.float64))
        if losses[-1] > 0:
            loss.backward()
            optimizer.step()
    return losses + weights(model)


def frozen_parameters_and_some_without_a_gradient(device: str) -> Results:
    model = gpt(device)
    model.tokens.weight.requires_grad_(False)
    extra = nn.Linear(12, 12).double().to(device)
    optimizer = torch.optim.AdamW([*model.blocks.parameters(), *extra.parameters()], lr=1e-2)
    for step in range(4):
        optimizer.zero_grad()
        ids, targets = batch_on(device, step)
        loss = tokens_loss(model, (ids, targets))
        if step % 2:
            loss = loss + extra(model.tokens(ids)).square().mean()
        loss.backward()
        optimizer.step()
    return weights(model) + weights(extra)


def outputs_kept_by_the_script(device: str) -> Results:
    model = gpt(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    kept = []
    for step in range(3):
        ids, targets = batch_on(device, step)
        out = model(ids)
        F.cross_entropy(out.flatten(0, 1), targets.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
        kept.append(out)
    return [out.detach() for out in kept] + weights(model)


def edits_in_place_of_weights(device: str) -> Results:
    model = gpt(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(3):
        optimizer.zero_grad()
        tokens_loss(model, batch_on(device, step)).backward()
        optimizer.step()
        with torch.no_grad():
            model.tokens.weight[3:7, ::2] = 0.25
            model.blocks[0]["up"].weight[5].mul_(2)
            model.norm.bias.add_(model.norm.weight[1])
    return [*weights(model), model.tokens.weight[4], model.blocks[1]["attend"].weight[7:20, 3]]


def a_state_that_is_saved_and_loaded(device: str) -> Results:
    model = gpt(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(3):
        if step == 1:
            saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        optimizer.zero_grad()
        tokens_loss(model, batch_on(device, step)).backward()
        optimizer.step()
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    optimizer.zero_grad()
    tokens_loss(model, batch_on(device, 7)).backward()
    optimizer.step()
    return weights(model)


def a_contrastive_loss(device: str) -> Results:
    torch.manual_seed(0)
    towers = nn.ModuleList([nn.Linear(6, 5), nn.Linear(7, 5)]).double().to(device)
    optimizer = torch.optim.SGD(towers.parameters(), lr=0.1)
    for step in range(3):
        torch.manual_seed(step)
        a, b = (
            F.normalize(tower(torch.randn(8, size, dtype=torch.float64).to(device)), dim=-1)
            for tower, size in zip(towers, (6, 7), strict=True)
        )
        logits = a @ b.T / 0.1
        targets = torch.arange(8, device=device)
        loss = F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return weights(towers)


def checkpointed_blocks(device: str) -> Results:
    from torch.utils.checkpoint import checkpoint

    torch.manual_seed(0)
    layers = nn.ModuleList(nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6)) for _ in range(3))
    layers = layers.double().to(device)
    optimizer = torch.optim.AdamW(layers.parameters(), lr=1e-2)
    for step in range(3):
        torch.manual_seed(step)
        x = torch.randn(8, 6, dtype=torch.float64).to(device)
        for layer in layers:
            x = x + checkpoint(layer, x, use_reentrant=False)
        optimizer.zero_grad()
        x.square().mean().backward()
        optimizer.step()
    return weights(layers)


def windows_of_one_tensor(device: str) -> Results:
    """Batches are views at offsets that differ from step to step."""
    torch.manual_seed(0)
    model = nn.Linear(6, 3).double().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = torch.randn(40, 6, dtype=torch.float64).to(device)
    for start in (0, 8, 16, 3, 20):
        optimizer.zero_grad()
        model(data[start : start + 8]).square().sum().backward()
        optimizer.step()
    return weights(model)


SCRIPTS: list[Callable[[str], Results]] = [
    gradients_accumulated_by_the_script,
    two_optimizers,
    a_last_batch_that_is_smaller,
    evaluation_in_the_middle,
    a_loss_that_is_read_before_backward,
    frozen_parameters_and_some_without_a_gradient,
    outputs_kept_by_the_script,
    edits_in_place_of_weights,
    a_state_that_is_saved_and_loaded,
    a_contrastive_loss,
    checkpointed_blocks,
    windows_of_one_tensor,
]


@pytest.mark.parametrize(("count", "plan"), PLANS, ids=lambda v: str(v))
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.__name__)
def test_is_as_on_the_cpu(script: Callable[[str], Results], count: int, plan: str) -> None:
    if script is windows_of_one_tensor and "pp" in plan:
        plan = "fastest"  # one layer has no stages
    with devices(count, plan):
        got = [t.cpu() for t in script("moai")]
    for ours, theirs in zip(got, script("cpu"), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def dropout_losses(steps: int = 3) -> list[float]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 40), nn.Dropout(0.3), nn.Linear(40, 6), nn.Dropout(0.1)).double()
    model.to("moai")
    moai._C.manual_seed(5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for step in range(steps):
        torch.manual_seed(step)
        x = torch.randn(8, 6, dtype=torch.float64).to("moai")
        optimizer.zero_grad()
        loss = model(x).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(("count", "plan"), PLANS, ids=lambda v: str(v))
def test_dropout_has_the_same_masks_under_every_plan(count: int, plan: str) -> None:
    wanted = dropout_losses()
    with devices(count, plan):
        assert dropout_losses() == pytest.approx(wanted, rel=1e-10)


def test_an_error_on_one_device_leaves_the_state_as_it_was() -> None:
    with devices(2, "dp=2"):
        model = gpt("moai")
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for step in range(3):
            optimizer.zero_grad()
            tokens_loss(model, batch_on("moai", step)).backward()
            optimizer.step()
        before = [t.cpu() for t in weights(model)]
        ids, targets = batch_on("moai", 3)
        ids[7, 2] = 1000  # the second device's
        with pytest.raises(IndexError, match="out of range"):
            optimizer.zero_grad()
            tokens_loss(model, (ids, targets)).backward()
            optimizer.step()
            moai.sync()
        for ours, theirs in zip(weights(model), before, strict=True):
            torch.testing.assert_close(ours.cpu(), theirs, rtol=0, atol=0)
        optimizer.zero_grad()
        tokens_loss(model, batch_on("moai", 4)).backward()
        optimizer.step()
        moai.sync()


def test_a_step_that_fits_no_device_says_what_is_too_large() -> None:
    moai.configure(devices="cpu:2", device_memory="1MiB", plan="fastest")
    try:
        model = nn.Sequential(nn.Linear(512, 2048), nn.ReLU(), nn.Linear(2048, 512)).to("moai")
        says = r"no plan of this step fits: memory at the end of forward: 8.0 MiB .*, limit 1.0 MiB\n  most of it: weights f32\[2048,512\], 2.0 MiB; .*\n  would fit: more devices"
        with pytest.raises(torch.OutOfMemoryError, match=says):
            model(torch.randn(8, 512).to("moai")).sum().backward()
            moai.sync()
    finally:
        moai.configure(devices="cpu", device_memory="", plan="fastest")


def losses_of_a_large_batch(device: str) -> list[float]:
    torch.manual_seed(0)
    model = Gpt(64, 32, 4, 2, 64).double().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    losses = []
    for step in range(4):
        torch.manual_seed(step)
        tokens = torch.randint(64, (64, 65)).to(device)
        optimizer.zero_grad()
        loss = tokens_loss(model, (tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("limit", [12, 8])
def test_a_batch_that_does_not_fit_is_gone_through_in_turns(limit: int) -> None:
    moai.configure(devices="cpu:2", device_memory=f"{limit}MiB", plan="fastest")
    try:
        losses, told = losses_of_a_large_batch("moai"), moai.explain()
        peaks = [device["peak_bytes"] for device in moai.stats()["devices"]]
    finally:
        moai.configure(devices="cpu", device_memory="", plan="fastest")
    assert "micro-batches" in told
    assert max(peaks) <= limit * 2**20
    assert losses == pytest.approx(losses_of_a_large_batch("cpu"), rel=1e-10)


def losses_read_before_backward(device: str, reads_logits: bool) -> list[float]:
    """The loss of each step, and after it what share of the tokens was guessed."""
    torch.manual_seed(0)
    model = Gpt(64, 32, 4, 2, 64).double().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    seen = []
    for step in range(4):
        torch.manual_seed(step)
        tokens = torch.randint(64, (64, 65)).to(device)
        ids, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        logits = model(ids)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        seen.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if reads_logits:
            seen.append((logits.argmax(-1) == targets).double().mean().item())
        del logits
    return seen


@pytest.mark.parametrize(("limit", "reads_logits"), [(14, False), (12, False), (16, True)])
def test_a_loss_read_before_backward_where_forward_leaves_too_much(limit: int, reads_logits: bool) -> None:
    """What forward leaves for backward does not fit the limit: it is made again, within a step gone through in turns."""
    moai.configure(devices="cpu:2", device_memory=f"{limit}MiB", plan="fastest")
    try:
        losses = losses_read_before_backward("moai", reads_logits)
        peaks = [device["peak_bytes"] for device in moai.stats()["devices"]]
    finally:
        moai.configure(devices="cpu", device_memory="", plan="fastest")
    assert max(peaks) <= limit * 2**20
    assert losses == pytest.approx(losses_read_before_backward("cpu", reads_logits), rel=1e-10)


def test_a_value_that_was_not_kept_is_made_when_it_is_read() -> None:
    """Though the weights that it came from are others by then, or no backward ever comes."""

    def seen(device: str) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = Gpt(64, 32, 4, 2, 64).double().to(device)
        ids = torch.randint(64, (64, 64)).to(device)
        logits = model(ids)
        outs = [logits.mean().detach().cpu()]
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(0.5)
        moai.sync()
        return [*outs, logits[3].detach().cpu(), logits.detach().cpu()]

    moai.configure(devices="cpu:2", device_memory="14MiB", plan="fastest")
    try:
        got = seen("moai")
    finally:
        moai.configure(devices="cpu", device_memory="", plan="fastest")
    for ours, theirs in zip(got, seen("cpu"), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "plan",
    ["dp=2,zero=0", "dp=2,zero=3", "tp=2", "dp=2,micro=4", "pp=2,micro=4", "dp=2,offload=activations",
     "dp=2,micro=4,recompute=full,offload=activations"],
)  # fmt: skip
def test_devices_hold_no_more_than_was_said(plan: str) -> None:
    """However many steps are recorded ahead of the one that runs."""
    with devices(2, plan):
        torch.manual_seed(0)
        model = Gpt(64, 64, 4, 2, 32).to("moai")
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        batch = tuple(t.to("moai") for t in torch.randint(64, (2, 16, 32)))
        for step in range(8):
            if step == 4:
                moai.sync()
                torch.moai.reset_peak_memory_stats()
            optimizer.zero_grad()
            tokens_loss(model, batch).backward()
            optimizer.step()
        moai.sync()
        said = moai._C.explained()["peak_bytes"]
        peaks = [device["peak_bytes"] for device in moai.stats()["devices"]]
    assert max(peaks) == pytest.approx(said, rel=0.03)
