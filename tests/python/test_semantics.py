"""The device as torch sees it: one accelerator, memory that is freed, no waiting; and the ops of other libraries."""

from __future__ import annotations

import gc
import itertools
import json
from collections.abc import Callable

import moai
import pytest
import torch
from scenarios import Scenarios, leaf, mlp
from torch import nn

scenario = Scenarios()


def test_accelerator_is_moai() -> None:
    assert torch.accelerator.is_available()
    assert torch.accelerator.current_accelerator().type == "moai"
    assert torch.accelerator.device_count() == 1 and torch.accelerator.current_device_index() == 0
    torch.accelerator.synchronize()
    assert torch.ones(2, device=torch.accelerator.current_accelerator()).device.type == "moai"
    assert torch.get_device_module("moai") is torch.moai


ELSEWHERE = {
    "empty": lambda: torch.empty(2, device="moai:1"),
    "copy": lambda: torch.ones(2).to("moai:1"),
    "move": lambda: torch.ones(2, device="moai").to("moai:1"),
    "module": lambda: nn.Linear(2, 2).to("moai:1"),
    "ones": lambda: torch.ones(2, device="moai:1"),
}


@pytest.mark.parametrize("make", ELSEWHERE.values(), ids=ELSEWHERE)
def test_a_device_that_is_not_there_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(RuntimeError, match="there is no moai:1"):
        make()


def test_default_device_reaches_every_maker() -> None:
    with torch.device("moai"):
        made = [
            torch.zeros(2),
            torch.tensor([1.0]),
            torch.randn(2),
            torch.arange(3),
            nn.Linear(2, 2).weight,
            torch.empty(2),
        ]
    assert {t.device.type for t in made} == {"moai"}
    assert torch.zeros(2).device.type == "cpu"


def test_what_nobody_holds_is_freed() -> None:
    def work() -> None:
        model = mlp("moai")
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        for _ in range(4):
            x = torch.randn(1000, 4).to("moai")
            model(x).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        model(x).sum().item()

    def live() -> int:
        gc.collect()
        moai.sync()
        return moai.stats()["live_bytes"]

    work()
    before = live()
    for _ in range(5):
        work()
    assert live() <= before


def test_addresses_differ_while_tensors_live() -> None:
    tensors = [torch.empty(8, device="moai") for _ in range(100)]
    assert len({t.data_ptr() for t in tensors}) == 100
    assert tensors[0][2:].data_ptr() == tensors[0].data_ptr() + 8


def test_no_read_means_no_wait() -> None:
    moai.sync()
    before = moai.stats()["launches"]
    x = torch.ones(64, 64, device="moai", requires_grad=True)
    for _ in range(10):
        ((x @ x).tanh() * x.detach()).sum().backward()
    assert x.grad.shape == (64, 64) and x.grad.stride() == (64, 1)
    assert moai.stats()["launches"] == before


@pytest.fixture(scope="module")
def library() -> torch.library.Library:
    made = torch.library.Library("moaisemantics", "FRAGMENT")
    made.define("shift(Tensor x, float by) -> Tensor")
    made.define("shift_(Tensor(a!) x, float by) -> Tensor(a!)")
    made.define("pair(Tensor x) -> (Tensor, Tensor)")
    made.define("composed(Tensor x) -> Tensor")
    made.impl("shift", lambda x, by: x + by, "CPU")
    made.impl("shift_", lambda x, by: x.add_(by), "CPU")
    made.impl("pair", lambda x: (x.sort().values, x.argsort()), "CPU")
    made.impl(
        "composed", lambda x: x.exp() + torch.ops.moaisemantics.shift(x, 2.0), "CompositeImplicitAutograd"
    )
    made.impl("shift", lambda x, by: torch.empty_like(x), "Meta")
    yield made
    made._destroy()


@pytest.mark.parametrize("turn", range(3))
def test_ops_of_a_library(library: torch.library.Library, turn: int) -> None:
    ops = torch.ops.moaisemantics
    x = torch.tensor([3.0, 1.0, 2.0])
    for by in (1.0, 2.5):
        got, want = x.to("moai") * 2, x * 2
        torch.testing.assert_close(ops.shift(got, by).cpu(), ops.shift(want, by))
        for t in (got, want):
            ops.shift_(t[1:], by)
        torch.testing.assert_close(got.cpu(), want)
        torch.testing.assert_close([t.cpu() for t in ops.pair(got)], list(ops.pair(want)))
        torch.testing.assert_close(ops.composed(got).cpu(), ops.composed(want))


@torch.library.custom_op("moaisemantics2::scaled_sin", mutates_args=())
def scaled_sin(x: torch.Tensor, scale: float) -> torch.Tensor:
    return x.sin() * scale


@scaled_sin.register_fake
def _(x, scale):
    return torch.empty_like(x)


scaled_sin.register_autograd(
    lambda ctx, gradient: (gradient * ctx.saved_tensors[0].cos() * ctx.scale, None),
    setup_context=lambda ctx, inputs, output: (
        ctx.save_for_backward(inputs[0]),
        setattr(ctx, "scale", inputs[1]),
    ),
)


@torch.library.custom_op("moaisemantics2::accumulate", mutates_args=("into",))
def accumulate(into: torch.Tensor, what: torch.Tensor) -> None:
    into.add_(what)


@scenario
def a_custom_op_has_gradients(device):
    x = leaf(device, 4)
    for scale in (1.0, 3.0):
        scaled_sin(x, scale).sum().backward()
    return x.grad


@scenario
def a_custom_op_writes_its_argument(device):
    total = torch.zeros(2, 3, device=device)
    for n in range(3):
        accumulate(total.t()[n % 2], torch.full((2,), float(n)).to(device))
    return total


@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[:3], ids=str)
def test_the_order_of_reads_does_not_matter(order: tuple[int, ...]) -> None:
    x = torch.arange(6.0).to("moai")
    a, b, c = x + 1, x.view(2, 3) * 2, x[3:].neg_()
    results = [
        (a, torch.arange(1.0, 7)),
        (b, torch.arange(6.0).view(2, 3) * 2),
        (c, torch.tensor([-3.0, -4.0, -5.0])),
    ]
    for n in order:
        torch.testing.assert_close(results[n][0].cpu(), results[n][1])


test_is_as_on_the_cpu = scenario.test()


# ---- Steps that repeat


def test_a_cache_written_in_place_and_picked_batches_stop_tracing() -> None:
    cache, order = torch.zeros(64, 8, dtype=torch.float64, device="moai"), torch.randperm(60).to("moai")
    data = torch.arange(60, dtype=torch.float64).to("moai")
    total = 0.0
    for step in range(20):
        cache[step].fill_(step + 0.5)
        total += data[order[step * 3 : step * 3 + 3]].sum().item()
        assert cache.sum().item() == sum(8 * (i + 0.5) for i in range(step + 1))
        if step == 5:
            before = moai.stats()
    assert total == sum(range(60))
    after = moai.stats()
    assert (after["traces"], after["compiles"]) == (before["traces"], before["compiles"])


def test_the_accelerators_synchronize_runs_what_is_recorded() -> None:
    x = torch.ones(2, device="moai") + 1
    before = moai.stats()["cuts"]
    torch.accelerator.synchronize()
    assert moai.stats()["cuts"] == before + 1 and x.sum().item() == 4


# ---- What can be seen


@pytest.mark.parametrize("raises", [False, True])
def test_a_trace_is_json_with_the_ops_also_when_the_script_raises(tmp_path, raises) -> None:
    path = tmp_path / "step.json"
    try:
        with moai.trace(path):
            (torch.ones(3, device="moai") * 3).sum().item()
            if raises:
                raise KeyError
    except KeyError:
        assert raises
    content = json.loads(path.read_text())
    events = content["traceEvents"] if isinstance(content, dict) else content
    assert any("aten.mul" in event.get("name", "") for event in events)
    assert all({"ts", "dur"} <= event.keys() for event in events if event.get("ph") == "X")


def test_a_dump_is_of_the_graph_that_ran_last() -> None:
    torch.ones(3, device="moai").cosh().sum().item()
    assert "aten.cosh" in moai.dump()
    torch.ones(3, device="moai").sinh().sum().item()
    assert "aten.sinh" in moai.dump() and "aten.cosh" not in moai.dump()


def test_a_dry_run_differentiates_what_fits_nowhere() -> None:
    with moai.dry_run():
        model = nn.Linear(1 << 20, 1 << 20, device="moai")
        loss = model(torch.ones(4, 1 << 20, device="moai")).sum()
        loss.backward()
        assert model.weight.grad.shape == (1 << 20, 1 << 20)
        with pytest.raises(RuntimeError, match="dry"):
            loss.item()
    assert (torch.ones(3, device="moai") * 2).sum().item() == 6
