"""`moai.hint`: where the planner lays what a script hints; numbers stay the same."""

from __future__ import annotations

import json

import moai
import pytest
import torch
from moai import _C
from moai.planning import plan_graph
from test_devices import devices
from torch import nn

WIDTH, INNER, BATCH = 32, 48, 8
Hints = dict[str, dict[str, int | None]]


def net(device: str) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, INNER), nn.Tanh(), nn.Linear(INNER, WIDTH), nn.Tanh())
    return model.double().to(device)


def train(model: nn.Module, steps: int, before_step=lambda: None) -> list[torch.Tensor]:
    """Weights after some steps."""
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(steps):
        before_step()
        torch.manual_seed(step)
        x = torch.randn(BATCH, WIDTH, dtype=torch.float64).to(device)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return [p.detach().cpu() for p in model.parameters()]


def recorded(hints: Hints) -> str:
    """A step's graph."""
    with moai.dry_run():
        model = net("moai")
        for name, cut in hints.items():
            moai.hint(model.get_parameter(name), cut)
        x = torch.zeros(BATCH, WIDTH, dtype=torch.float64, device="moai")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            _C.set_dry(True)
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        return _C.dry_step()


def lies(graph: str, pin: str) -> dict[str, list[str]]:
    """By type of input, how it is split over the axes of the plan's mesh."""
    found = plan_graph(graph, "cpu:4", pin)
    return {entry["type"]: entry["split"] for entry in json.loads(found["plan"])["inputs"]}


FIRST, SECOND = f"f64[{INNER},{WIDTH}]", f"f64[{WIDTH},{INNER}]"


@pytest.mark.parametrize("dim", [0, 1])
def test_a_weight_lies_as_hinted(dim: int) -> None:
    graph = recorded({"0.weight": {"tensor": dim}, "2.weight": {"tensor": 1 - dim, "data": None}})
    assert "hints(" in graph
    split = lies(graph, "dp=2,tp=2,pp=1")
    assert split[FIRST][1] == f"shard {dim}"
    assert split[SECOND] == ["replicate", f"shard {1 - dim}"]


def test_a_whole_weight_stays_whole() -> None:
    split = lies(recorded({"0.weight": {"tensor": None, "data": None}}), "dp=2,tp=2,pp=1")
    assert split[FIRST] == ["replicate", "replicate"]


def test_weights_may_be_sharded_over_data_parallelism() -> None:
    split = lies(recorded({"0.weight": {"data": 1}}), "dp=4,pp=1")
    assert split[FIRST] == ["shard 1"]


def test_a_free_plan_follows_a_hint() -> None:
    """Its axes are then for the batch or for features, whichever are fewer."""
    split = lies(recorded({"0.weight": {"tensor": 0, "data": 0}, "2.weight": {"tensor": 1, "data": 1}}), "")
    assert all(word == "shard 0" for word in split[FIRST])
    assert all(word == "shard 1" for word in split[SECOND])


@pytest.mark.parametrize("plan", ["fastest", "dp=2,tp=2"])
def test_numbers_stay_the_same(plan: str) -> None:
    wanted = train(net("cpu"), 3)
    with devices(4, plan):
        model = net("moai")
        moai.hint(model[0].weight, {"tensor": 0})
        moai.hint(model[2].weight, {"tensor": 1})
        for got, want in zip(train(model, 3), wanted, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_a_hint_binds_from_the_next_step_on() -> None:
    """A step that is known is planned anew, and state moves."""
    wanted = train(net("cpu"), 5)
    with devices(4, "dp=2,tp=2"):
        model = net("moai")
        cuts = iter([{}, {}, {"tensor": 0}, {"tensor": 1}, {}])
        searches = []

        def hint() -> None:
            moai.sync()
            searches.append(moai.stats()["plans_searched"])
            moai.hint(model[0].weight, next(cuts))

        for got, want in zip(train(model, 5, hint), wanted, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
        moai.sync()
        assert searches[2] < searches[3] < searches[4]
        assert moai.stats()["plans_searched"] == searches[4], "the plan without a hint is still known"


@pytest.mark.parametrize(
    ("tensor", "cut", "error", "message"),
    [
        (lambda: torch.zeros(3, 4, device="moai"), {"rows": 0}, ValueError, "knows no 'rows'"),
        (lambda: torch.zeros(3, 4, device="moai"), {"tensor": 2}, IndexError, "dim 2 of a tensor of 2 dims"),
        (lambda: torch.zeros(3, 4), {"tensor": 0}, ValueError, "move the tensor or its module there first"),
        (lambda: torch.zeros(3, 4, device="moai")[1], {"data": 0}, ValueError, "a part of another"),
        (lambda: torch.zeros(3, 4, device="moai").t(), {"data": 0}, ValueError, "shows it otherwise"),
    ],
)
def test_a_mistake_is_named(tensor, cut: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        moai.hint(tensor(), cut)


def test_a_dim_that_no_op_splits_is_named() -> None:
    graph = "graph(%0: f64[1,32]) hints(0: tensor 0) { %1: f64[1,32] = !bw aten.tanh(%0) return %1 }"
    with pytest.raises(RuntimeError, match=r"cut f64\[1,32\] along dim 0, which no op splits"):
        plan_graph(graph, "cpu:4")
