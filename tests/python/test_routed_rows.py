"""Mixtures of experts whose rows are split as their tokens are: the same numbers, and only where that can be proven."""

from __future__ import annotations

import re
from collections.abc import Callable

import moai
import pytest
import torch
import torch.nn.functional as F
from moai import _C
from sampling import is_chosen
from test_devices import devices
from test_partition import recorded
from torch import nn

VOCAB, WIDTH, INNER, EXPERTS, CHOICES = 17, 12, 8, 5, 3
BATCH, LENGTH = 6, 4

Route = Callable[["Layer", torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def ends_by_bins(expert: torch.Tensor) -> torch.Tensor:
    counts = torch.histc(expert.float(), bins=EXPERTS, min=0, max=EXPERTS - 1)
    return counts.cumsum(0).to(torch.int32)


def ends_by_comparison(expert: torch.Tensor) -> torch.Tensor:
    each = expert[:, None] == torch.arange(EXPERTS, device=expert.device)
    return each.sum(0).cumsum(0, dtype=torch.int32)


class Layer(nn.Module):
    """Each token goes through the experts that its router likes best."""

    def __init__(self, route: Route, push: float = 0.0) -> None:
        super().__init__()
        self.route = route
        self.router = nn.Linear(WIDTH, EXPERTS)
        with torch.no_grad():
            self.router.bias[1] += push  # everyone's choice, or nobody's
        self.up = nn.Parameter(torch.randn(EXPERTS, WIDTH, INNER) / 4)
        self.bias = nn.Parameter(torch.randn(EXPERTS, INNER) / 4)
        self.down = nn.Parameter(torch.randn(EXPERTS, WIDTH, INNER) / 4)

    def experts(self, rows: torch.Tensor, expert: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        inner = F.grouped_mm(rows, self.up, offs=ends) + self.bias[expert]
        return F.grouped_mm(F.silu(inner), self.down.mT, offs=ends)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, chosen = self.router(x).softmax(-1).topk(CHOICES)
        return x + self.route(self, x, weight, chosen)


def by_inverse(layer: Layer, x: torch.Tensor, weight: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """As transformers does it."""
    expert, order = chosen.reshape(-1).sort()
    y = layer.experts(x[order // CHOICES], expert, ends_by_bins(expert)) * weight.reshape(-1)[
        order
    ].unsqueeze(-1)
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(order.numel(), device=x.device)
    return y[inverse].view(-1, CHOICES, WIDTH).sum(1)


def by_sum(layer: Layer, x: torch.Tensor, weight: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Rows are picked and added up where their tokens are."""
    expert, order = chosen.flatten().sort(stable=True)
    token = order // CHOICES
    y = layer.experts(x.index_select(0, token), expert, ends_by_comparison(expert))
    y = y * weight.flatten()[order, None]
    return torch.zeros_like(x).index_add(0, token, y)


def by_row(layer: Layer, x: torch.Tensor, weight: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Tokens are repeated first, and rows go back to where they were."""
    expert, order = chosen.reshape(-1).sort(dim=0)
    rows = x.repeat_interleave(CHOICES, 0)[order]
    y = layer.experts(rows, expert, ends_by_bins(expert))
    back = torch.zeros_like(y).index_put([order], y, accumulate=True)
    return (back.view(-1, CHOICES, WIDTH) * weight.unsqueeze(-1)).sum(1)


def by_the_best(layer: Layer, x: torch.Tensor, weight: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """One expert a token."""
    expert, order = layer.router(x).argmax(-1).sort()
    y = layer.experts(x[order], expert, ends_by_comparison(expert))
    return torch.zeros_like(x).index_put((order,), y) * weight[:, :1]


def by_filled_rows(layer: Layer, x: torch.Tensor, weight: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Between the products rows meet as many that are filled, of no order."""
    expert, order = chosen.reshape(-1).sort()
    ends = ends_by_bins(expert)
    inner = F.grouped_mm(x[order // CHOICES], layer.up, offs=ends)
    inner = torch.where(inner > 0, inner, torch.zeros(inner.shape, device=x.device))
    into = torch.empty_like(inner)
    into.copy_(F.silu(inner) + layer.bias[expert])
    y = F.grouped_mm(into, layer.down.mT, offs=ends)
    return torch.zeros_like(x).index_add(0, order // CHOICES, y)


def by_another_product(
    layer: Layer, x: torch.Tensor, weight: torch.Tensor, chosen: torch.Tensor
) -> torch.Tensor:
    """Sorted rows go through what is no expert's."""
    expert, order = chosen.reshape(-1).sort()
    y = layer.experts(x[order // CHOICES], expert, ends_by_bins(expert))
    y = y + torch.tanh(y @ layer.up[0]) @ layer.down[0].mT
    return torch.zeros_like(x).index_add(0, order // CHOICES, y)


ROUTES = {
    route.__name__: route
    for route in (by_inverse, by_sum, by_row, by_the_best, by_filled_rows, by_another_product)
}


class Model(nn.Module):
    def __init__(self, route: Route, push: float = 0.0) -> None:
        super().__init__()
        self.tokens, self.head = nn.Embedding(VOCAB, WIDTH), nn.Linear(WIDTH, VOCAB)
        self.layers = nn.Sequential(Layer(route, push), Layer(route, push))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.layers(self.tokens(ids).flatten(0, 1))
        return F.cross_entropy(self.head(x), ids.roll(1, 1).flatten())


def train(device: str, route: Route, push: float) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = Model(route, push).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(torch.randint(0, VOCAB, (BATCH, LENGTH)).to(device))
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return [t.detach().cpu() for t in [*losses, *gradients, *model.parameters()]]


def graph_of(route: Route) -> str:
    """Of a training step, as the planner sees it."""
    ids = torch.zeros(BATCH, LENGTH, dtype=torch.long).to("moai")
    return _C.dims(recorded(lambda: Model(route), lambda m: m(ids))[0])[0]


@pytest.mark.parametrize("route", ROUTES)
def test_every_way_there_and_back_is_understood(route: str) -> None:
    text = graph_of(ROUTES[route])
    assert text.count("moai.sort_rows") == 2
    assert "aten.sort" not in text and "aten._grouped_mm" not in text and "histc" not in text


PLANS = [
    *[(2, plan) for plan in ("dp=2", "tp=2", "dp=2,micro=3", "dp=2,micro=3,recompute=full", "dp=2,zero=3")],
    (3, "dp=3"), (4, "dp=2,tp=2"), (2, "ep=2"), (4, "dp=2,ep=2"), (2, "pp=2,micro=2"), (1, "micro=3"),
    (2, "tp=2,experts=tp,capacity=1"), (4, "dp=2,tp=2,experts=tp,capacity=9"), (4, "dp=2,tp=2,experts=dp+tp"),
    (4, "sp=2,tp=2,experts=sp+tp"), (2, "dp=2,experts=dp,capacity=1.5"),
    (2, "ep=2,capacity=0"), (2, "ep=2,capacity=1"), (3, "ep=3,capacity=1.5"), (4, "ep=4,capacity=1"),
    (4, "dp=2,ep=2,capacity=9"), (4, "ep=2,tp=2,capacity=1"), (6, "ep=3,dp=2,capacity=2,recompute=full"),
    (4, "pp=2,ep=2,capacity=1,micro=2"), (2, "dp=2,capacity=1"),
    *[(count, f"random:{seed}") for count in (2, 3, 4) for seed in range(8)],
]  # fmt: skip
PUSHES = {"balanced": 0.0, "all to one": 30.0, "none to one": -30.0}
TABLE = [(route, push, plan) for route in ROUTES for push in PUSHES for plan in PLANS]


@pytest.mark.parametrize(("route", "push", "plan"), [row for row in TABLE if is_chosen(row, 8)], ids=str)
def test_plans_give_the_cpus_numbers(route: str, push: str, plan: tuple[int, str]) -> None:
    expected = train("cpu", ROUTES[route], PUSHES[push])
    with devices(*plan):
        got = train("moai", ROUTES[route], PUSHES[push])
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("route", ROUTES)
def test_what_was_trained_answers_as_it_lies(route: str) -> None:
    def answers(device: str) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = Model(ROUTES[route]).to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        ids = torch.randint(0, VOCAB, (BATCH, LENGTH)).to(device)
        model(ids).backward()
        optimizer.step()
        with torch.no_grad():
            return [model(ids).cpu(), model(ids[:1]).cpu()]

    expected = answers("cpu")
    for plan in ("dp=2", "tp=2", "dp=2,zero=3", "pp=2,micro=2", "random:1"):
        with devices(2, plan):
            got = answers("moai")
        torch.testing.assert_close(got, expected, rtol=2e-5, atol=2e-5)


# --- Rows that go to their experts -----------------------------------------------------------------


def test_a_step_that_lacks_room_runs_again_as_if_nothing_had_been() -> None:
    # The router turns while it trains: even at first, then all to one expert, and its bias is what the script reads.
    def turn(device: str) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = Model(by_inverse).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        seen = []
        for at in range(6):
            if at == 3:
                with torch.no_grad():
                    model.layers[1].router.bias[1] += 30
            optimizer.zero_grad()
            loss = model(torch.randint(0, VOCAB, (BATCH, LENGTH)).to(device))
            loss.backward()
            optimizer.step()
            seen += [loss.detach().cpu(), model.layers[1].router.bias.detach().clone().cpu()]
        return [*seen, *[p.detach().cpu() for p in model.parameters()]]

    expected = turn("cpu")
    before = moai.stats()
    with devices(2, "ep=2,capacity=1.25"):
        got = turn("moai")
        after = moai.stats()
    assert after["steps_run_again"] > before["steps_run_again"]
    assert after["failures"] == before["failures"]
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)


def test_rows_are_sent_and_experts_are_not() -> None:
    with devices(2, "ep=2,capacity=2"):
        train("moai", by_inverse, 0.0)
        program, explained = _C.dump(), moai.explain()
    assert program.count("moai.all_to_all") >= 2 * 5, (
        program
    )  # rows, what becomes of them, their gradients, and ids
    assert f"f32[2,{WIDTH},{INNER}]" in program and f"f32[{EXPERTS},{WIDTH},{INNER}]" not in program, program
    assert "capacity 2" in explained


def test_capacity_grows_by_what_is_lacked_and_not_by_how_many_steps_lack_it() -> None:
    # Steps of many lengths are planned while the router is even; then all rows go to one expert.
    before = moai.stats()
    with devices(2, "ep=2,capacity=1"):
        torch.manual_seed(0)
        model = Model(by_sum).to("moai")
        losses = []
        for push in (0.0, 60.0):
            with torch.no_grad():
                for layer in model.layers:
                    layer.router.bias[1] += push
            for length in range(4, 16):
                model.zero_grad()
                loss = model(torch.randint(0, VOCAB, (BATCH, length)).to("moai"))
                loss.backward()
                losses.append(loss)
        assert torch.stack(losses).isfinite().all()
        explained = moai.explain()
    after = moai.stats()
    assert after["failures"] == before["failures"]
    capacity = float(re.search(r"capacity ([\d.]+)", explained)[1])
    assert 1 < capacity < 1.6**8, explained


@pytest.mark.parametrize(
    "plan",
    ["ep=2,capacity=1", "ep=2,dp=2,capacity=1", "ep=2,capacity=1,micro=2", "pp=2,ep=2,capacity=1,micro=2"],
)
def test_a_step_that_cannot_send_rows_goes_without(plan: str) -> None:
    def losses(device: str) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model, dense = Model(by_inverse).to(device), nn.Linear(3, 3).to(device)
        optimizer = torch.optim.SGD([*model.parameters(), *dense.parameters()], lr=0.1)
        seen = []
        with torch.no_grad():
            seen.append(model(torch.randint(0, VOCAB, (4, LENGTH)).to(device)))
        for batch in (6, 5) if "pp" in plan else (6, 5, 1):  # of which one sample has no stages either
            ids = torch.randint(0, VOCAB, (batch, LENGTH)).to(device)
            loss = model(ids)
            if batch == 5 and "pp" not in plan:
                seen.append(torch.tensor(loss.item()))
            loss.backward()
            if "pp" not in plan:  # which one layer has no stages for
                dense(torch.ones(batch, 3, device=device)).square().mean().backward()
            optimizer.step()
            seen.append(loss)
        return [one.detach().cpu() for one in seen]

    with devices(4 if plan.count("=2") > 1 and "dp=2" in plan or "pp=2" in plan else 2, plan):
        got = losses("moai")
    torch.testing.assert_close(got, losses("cpu"), rtol=2e-5, atol=2e-5)


def test_rows_are_sent_along_one_axis_alone() -> None:
    pins = "tp=2,dp=2,experts=tp+dp,capacity=2"
    with pytest.raises(
        RuntimeError, match="capacity=2 cannot be: rows are sent along one axis, and tp and dp"
    ):
        _C.plan_step(graph_of(by_inverse), _C.cluster("h100:4")["json"], pins, "")


@pytest.mark.parametrize("plan", ["capacity=1.5", "capacity=1.5,micro=3", "ep=2,capacity=1"])
def test_a_capacity_for_nothing_is_refused_by_the_planner(plan: str) -> None:
    text = graph_of(keeps_a_row if "ep" in plan else by_inverse)
    with pytest.raises(
        RuntimeError, match=r"capacity=.* cannot be: (each stage has one device|no rows of the step)"
    ):
        _C.plan_step(text, "h100:2" if "ep" in plan else "h100:1", plan)


def test_a_capacity_that_is_no_number_from_one_is_refused() -> None:
    for capacity in ("0.5", "-1", "nan", "many", "1e99"):
        with pytest.raises(
            ValueError, match=f"`capacity={capacity}` in the pins needs a number from 1 to 1000, or 0"
        ):
            _C.check_plan(2, [], f"ep=2,capacity={capacity}", "")


# --- What cannot be proven stays whole -----------------------------------------------------------


def keeps_a_row(layer: Layer, x: torch.Tensor, weight: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    expert, order = chosen.reshape(-1).sort()
    y = layer.experts(x[order // CHOICES], expert, ends_by_bins(expert))
    first = y[:1]  # of the whole order
    return torch.zeros_like(x).index_add(0, order // CHOICES, y) + first


def counts_places(layer: Layer, x: torch.Tensor, weight: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    expert, order = chosen.reshape(-1).sort()
    place = torch.arange(order.numel(), device=x.device) * 0.01
    y = layer.experts(x[order // CHOICES], expert, ends_by_bins(expert)) * place[:, None]
    return torch.zeros_like(x).index_add(0, order // CHOICES, y)


def goes_down(layer: Layer, x: torch.Tensor, weight: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    expert, order = chosen.reshape(-1).sort(descending=True)
    y = x[order // CHOICES] * layer.bias[expert, :1]
    return torch.zeros_like(x).index_add(0, order // CHOICES, y)


def counts_in_half(layer: Layer, x: torch.Tensor, weight: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """In a type that cannot hold every count."""
    expert, order = chosen.reshape(-1).sort()
    counts = torch.histc(expert.float(), bins=EXPERTS, min=0, max=EXPERTS - 1).bfloat16()
    y = layer.experts(x[order // CHOICES], expert, counts.cumsum(0).to(torch.int32))
    return torch.zeros_like(x).index_add(0, order // CHOICES, y)


def counts_in_pairs(
    layer: Layer, x: torch.Tensor, weight: torch.Tensor, chosen: torch.Tensor
) -> torch.Tensor:
    """Experts in a table of two rows, whose columns are counted together."""
    expert, order = chosen.reshape(-1).sort()
    each = expert[:, None, None] == torch.arange(6, device=x.device).view(2, 3)
    ends = each.sum((0, 1)).cumsum(0, dtype=torch.int32)
    y = F.grouped_mm(x[order // CHOICES], layer.up[:3], offs=ends)
    return torch.zeros_like(x).index_add(0, order // CHOICES, F.pad(y, (0, WIDTH - INNER)))


def sorts_by_weight(
    layer: Layer, x: torch.Tensor, weight: torch.Tensor, chosen: torch.Tensor
) -> torch.Tensor:
    best, order = weight.reshape(-1).sort()
    return torch.zeros_like(x).index_add(
        0, order // CHOICES, x[order // CHOICES] * best[:, None].cumsum(0) / 50
    )


def drops_what_is_late(
    layer: Layer, x: torch.Tensor, weight: torch.Tensor, chosen: torch.Tensor
) -> torch.Tensor:
    """Experts of limited capacity: who comes first is a matter of the whole order."""
    expert, order = chosen.reshape(-1).sort()
    place = torch.arange(order.numel(), device=x.device) - (ends_by_comparison(expert).roll(1) * 1)[expert]
    y = layer.experts(x[order // CHOICES], expert, ends_by_comparison(expert)) * (place < 4)[:, None]
    return torch.zeros_like(x).index_add(0, order // CHOICES, y)


def divides_by_their_number(
    layer: Layer, x: torch.Tensor, weight: torch.Tensor, chosen: torch.Tensor
) -> torch.Tensor:
    """A mean's gradient, by how many rows there are: slots would be more."""
    expert, order = chosen.reshape(-1).sort()
    y = layer.experts(x[order // CHOICES], expert, ends_by_bins(expert))
    pull = torch.ops.aten.mse_loss_backward(x.new_ones(()), y.detach(), y.detach() * 0.5, 1)
    return torch.zeros_like(x).index_add(0, order // CHOICES, y + 100 * pull)


WHOLE = {
    route.__name__: route
    for route in (
        keeps_a_row,
        counts_places,
        goes_down,
        counts_in_half,
        counts_in_pairs,
        sorts_by_weight,
        drops_what_is_late,
        divides_by_their_number,
    )
}


@pytest.mark.parametrize("route", WHOLE)
def test_rows_whose_order_is_seen_lie_whole(route: str) -> None:
    assert "moai.sort_rows" not in graph_of(WHOLE[route])
    expected = train("cpu", WHOLE[route], 0.0)
    with devices(2, "dp=2"):
        got = train("moai", WHOLE[route], 0.0)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)


def test_an_inverse_of_more_dims_is_none_of_ours() -> None:
    def answer(device: str) -> torch.Tensor:
        torch.manual_seed(0)
        x, up, router = (torch.randn(*sizes).to(device) for sizes in ((8, 12), (5, 12, 8), (12, 5)))
        with torch.no_grad():
            expert, order = (x @ router).topk(3)[1].flatten().sort()
            inverse = torch.zeros(order.numel(), 1, dtype=torch.long, device=device)
            inverse[order] = torch.arange(order.numel(), device=device)[:, None]
            y = F.grouped_mm(x[order // 3], up, offs=ends_by_bins(expert))
            return y[inverse].view(-1, 3, 8).sum(1).cpu()

    expected = answer("cpu")
    with devices(2, "dp=2"):
        torch.testing.assert_close(answer("moai"), expected, rtol=2e-5, atol=2e-5)


def test_counts_are_still_the_wholes() -> None:
    """Where rows of an expert end is known part by part; how many it has, when asked for, is of all."""

    def balanced(layer: Layer, x: torch.Tensor, weight: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        expert, order = chosen.reshape(-1).sort()
        counts = torch.histc(expert.float(), bins=EXPERTS, min=0, max=EXPERTS - 1)
        y = layer.experts(x[order // CHOICES], expert, counts.cumsum(0).to(torch.int32))
        return torch.zeros_like(x).index_add(0, order // CHOICES, y) * counts.square().mean() / 200

    text = graph_of(balanced)
    assert "moai.sort_rows" in text and "aten.histc" in text
    expected = train("cpu", balanced, 0.0)
    for plan in ("dp=2", "random:1", "random:2", "random:3"):
        with devices(2, plan):
            got = train("moai", balanced, 0.0)
        for ours, theirs in zip(got, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)
