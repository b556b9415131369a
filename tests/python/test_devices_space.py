"""One image on several devices, which cut it: each gathers the rows that its windows see beside its own."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable

import moai
import pytest
import torch
import torch.nn.functional as F
from moai import _C
from moai.planning import plan_graph
from test_devices import devices
from torch import nn

SEEDS = range(6)


class Windows(nn.Module):
    """Windows with padding, stride and dilation, of one place and over parts' own rows alone; odd sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.strided = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.dilated, self.grouped = nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.Conv2d(8, 8, 1, groups=2)
        self.up, self.head = nn.ConvTranspose2d(8, 4, 2), nn.Linear(4 * 7 * 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.first(x)), 3, 2, padding=1)
        x = F.gelu(self.strided(x))
        x = x + self.grouped(torch.tanh(self.dilated(x)))
        return self.head(F.avg_pool2d(self.up(x), 3, 1, padding=1).flatten(1))


class Lines(nn.Module):
    """The same in one dim and in three."""

    def __init__(self) -> None:
        super().__init__()
        self.line, self.cube = nn.Conv1d(2, 8, 5, padding=2), nn.Conv3d(1, 4, 3, stride=(2, 1, 1), padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool1d(torch.tanh(self.line(x)), 3, 1, padding=1)
        return self.head(self.cube(x.reshape(1, 1, 13, 2, 4 * 2)).mean((2, 3, 4)))


# What makes the net; the image's sizes and how it lies; classes.
NETS = {
    "windows": (Windows, (1, 3, 23, 11), torch.contiguous_format, 5),
    "channels_last": (Windows, (1, 3, 23, 11), torch.channels_last, 5),
    "lines": (Lines, (1, 2, 26), torch.contiguous_format, 3),
}


def train(device: str, name: str) -> list[torch.Tensor]:
    """Losses and images' gradients of three steps; weights' gradients and weights."""
    make, sizes, layout, classes = NETS[name]
    torch.manual_seed(0)
    model = make().double().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-3)
    seen = []
    for step in range(3):
        torch.manual_seed(100 + step)
        image = torch.randn(sizes, dtype=torch.float64).to(device, memory_format=layout).requires_grad_()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(image), torch.randint(classes, (1,)).to(device))
        loss.backward()
        optimizer.step()
        seen += [loss.detach(), image.grad]
    return [t.cpu() for t in [*seen, *(p.grad for p in model.parameters()), *model.state_dict().values()]]


@functools.cache
def on_the_cpu(name: str) -> list[torch.Tensor]:
    return train("cpu", name)


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("name", NETS)
def test_one_image_on_several_devices_gives_the_same_numbers(name: str, count: int, capfd) -> None:
    want = on_the_cpu(name)
    for plan in ("fastest", f"sp={count}", *(f"random:{seed}" for seed in SEEDS)):
        _C.configure_log("compile")
        try:
            with devices(count, plan):
                got = train("moai", name)
        finally:
            _C.configure_log("")
        for ours, theirs in zip(got, want, strict=True):
            torch.testing.assert_close(
                ours, theirs, rtol=1e-10, atol=1e-10, msg=lambda m, plan=plan: f"{plan} on {count}: {m}"
            )
        told = capfd.readouterr().err
        if plan.startswith("sp="):
            assert "z.0 of aten.convolution, aten.convolution_backward" in told, told


def recorded(make: Callable[[], tuple[nn.Module, Callable[[], torch.Tensor]]]) -> str:
    """The graph of a step of a model, by a loss."""
    with moai.dry_run():
        with torch.device("moai"):
            model, loss = make()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            _C.set_dry(True)
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
        return _C.dry_step()


def large_image() -> tuple[nn.Module, Callable[[], torch.Tensor]]:
    inner = (nn.Conv2d(64, 64, 3, padding=1) for _ in range(4))
    layers = [nn.Conv2d(3, 64, 3, padding=1), *inner, nn.Conv2d(64, 1, 3, padding=1)]
    model = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))
    image, wanted = torch.zeros(1, 3, 2048, 2048), torch.zeros(1, 1, 2048, 2048)
    return model, lambda: F.mse_loss(model(image), wanted)


def labelled_places() -> tuple[nn.Module, Callable[[], torch.Tensor]]:
    """Each place of a line has a label, so places are what a batch is made of."""
    model = nn.Sequential(nn.Conv1d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 5, 3, padding=1))
    line, labels = torch.zeros(1, 8, 4096), torch.zeros(4096, dtype=torch.long)
    return model, lambda: F.cross_entropy(model(line)[0].t(), labels)


@pytest.mark.parametrize("cluster", ["h100:2", "h100:4"])
def test_a_large_image_is_cut_where_it_lies(cluster: str) -> None:
    """Features would be gathered whole at each layer, where rows at the edges are all that neighbours need."""
    found = plan_graph(recorded(large_image), cluster, "")
    assert [axis["name"] for axis in found["axes"]] == ["sequence"], found["layout"]
    nodes = json.loads(found["plan"])["nodes"]
    windows = [node["split"] for node in nodes if "convolution" in node["op"]]
    assert windows, nodes
    assert all(split in (["z.0"], ["z.1"]) for split in windows), windows


def test_places_that_windows_see_are_no_micro_batches() -> None:
    found = plan_graph(recorded(labelled_places), "h100:2", "")
    assert found["no_micro_batches"] == (
        "aten.convolution needs the whole batch: windows reach over its parts' edges"
    )


def test_what_cannot_be_cut_says_why() -> None:
    """A transposed convolution, and pools whose windows count what is there."""
    (up,) = _C.rules(
        "graph(%0: f32[1,1,8,8], %1: f32[1,1,2,2]) { %2: f32[1,1,9,9] = "
        "aten.convolution(%0, %1, none, [1,1], [0,0], [1,1], true, [0,0], 1) return %2 }"
    )
    (pool,) = _C.rules(
        "graph(%0: f32[1,1,8,8]) { %1: f32[1,1,8,8] = aten.avg_pool2d(%0, [3,3], [1,1], [1,1], false, false, none) "
        "return %1 }"
    )
    for rule in (up, pool):
        assert not any(factor["splittable"] for factor in rule["factors"])
    assert up["why_whole"] == "windows of a transposed convolution overlap in its result"
    assert pool["why_whole"] == "its windows count the places that they have in the image"
