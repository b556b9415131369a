"""The device as torch sees it: one accelerator, memory that is freed, no waiting; and the ops of other libraries."""

from __future__ import annotations

import copy
import gc
import io
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
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
known = {
    "ones": pytest.mark.xfail(
        strict=True, reason="factories that are nodes of a graph ignore the device's index"
    )
}


@pytest.mark.parametrize(
    "make", [pytest.param(f, id=n, marks=known.get(n, ())) for n, f in ELSEWHERE.items()]
)
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


# ---- As on the CPU in fp64, where a scenario has several kinds

F64 = torch.float64


def equal_on_both(script: Callable[[str], list[torch.Tensor]]) -> None:
    """The script returns the same on moai and on the CPU, to 1e-12."""
    results = []
    for device in ("moai", "cpu"):
        torch.manual_seed(0)
        results.append([t.detach().cpu() for t in script(device)])
    torch.testing.assert_close(*results, atol=1e-12, rtol=1e-12)


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


# ---- Storages of bytes: what deepcopy, pickle and torch.load make


def loaded(t: torch.Tensor) -> torch.Tensor:
    file = io.BytesIO()
    torch.save(t, file)
    file.seek(0)
    return torch.load(file)


MADE_OVER_BYTES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda t: pickle.loads(pickle.dumps(t)),
    "load": loaded,
    "view": lambda t: t.view(torch.uint8).clone().view(t.dtype),
}


@pytest.mark.parametrize("make", MADE_OVER_BYTES.values(), ids=MADE_OVER_BYTES)
def test_a_write_through_a_view_of_another_dtype_keeps_the_bits(make) -> None:
    def script(device: str) -> list[torch.Tensor]:
        made = []
        for write in (
            lambda t: t.add_(1),
            lambda t: t.zero_(),
            lambda t: t[1:].mul_(3),
            lambda t: t.copy_(t.flip(0)),
            lambda t: torch._foreach_add_([t], 1),
            lambda t: torch.add(t, 1, out=t),
            lambda t: t.view(torch.int64).fill_(7),
        ):
            made.append(make(torch.arange(1, 5, dtype=F64).to(device)))
            write(made[-1])
        return made

    equal_on_both(script)


# ---- Version counters of lists


LIST_WRITES: dict[str, Callable[[list], object]] = {
    "mul": lambda a: torch._foreach_mul_(a, 2),
    "add": lambda a: torch._foreach_add_(a, [torch.ones_like(t) for t in a]),
    "addcmul": lambda a: torch._foreach_addcmul_(a, a, a, value=2.0),
    "zero": torch._foreach_zero_,
    "copy": lambda a: torch._foreach_copy_(a, [torch.ones_like(t) for t in a]),
    "lerp": lambda a: torch._foreach_lerp_(a, [torch.ones_like(t) for t in a], 0.5),
    "sqrt": torch._foreach_sqrt_,
}


@pytest.mark.parametrize("write", LIST_WRITES.values(), ids=LIST_WRITES)
def test_a_write_to_a_list_is_seen_by_autograd(write) -> None:
    for device in ("cpu", "moai"):
        y = torch.full((2,), 2.0, device=device, requires_grad=True) * 1
        loss = (y * y).sum()
        with torch.no_grad():
            write([y, torch.ones(3, device=device)])
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_a_step_between_forward_and_backward_is_refused() -> None:
    for device in ("cpu", "moai"):
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5, foreach=True)
        x = torch.ones(1, 2, device=device)
        model(x).sum().backward()
        late = model(x).sum()
        optimizer.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            late.backward()


# ---- Steps that repeat


def test_a_cache_written_in_place_and_picked_batches_stop_tracing() -> None:
    cache, order = torch.zeros(64, 8, dtype=F64, device="moai"), torch.randperm(60).to("moai")
    data = torch.arange(60, dtype=F64).to("moai")
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


# ---- Ends of a process


BEGIN = """
import signal, threading, torch, moai
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)
x = torch.ones(64, 64, device="moai")
for _ in range(50): x = x @ x * 1e-2
"""
ENDS = {  # code, exit status, what stderr holds
    "with_a_backward_queued": ("m = torch.nn.Linear(64, 64).to('moai'); m(x).sum().backward()", 0, ""),
    "in_the_middle_of_a_step": (
        "torch.nn.Linear(64, 64).to('moai')(x); raise KeyError('mine')",
        1,
        "KeyError: 'mine'",
    ),
    "while_a_thread_records": (
        "threading.Thread(target=lambda: [x.add_(1) for _ in range(99)]).start()",
        0,
        "",
    ),
    "with_a_tensor_in_a_cycle": ("class A: pass\na = A(); a.a, a.x = a, x", 0, ""),
    "within_a_trace": ("moai.trace('/dev/null').__enter__()", 0, ""),
    "within_a_dry_run": ("moai.dry_run().__enter__(); y = x + 1", 0, ""),
}


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", BEGIN + code], capture_output=True, text=True, timeout=60)


SLOW = ("with_a_tensor_in_a_cycle", "within_a_trace", "within_a_dry_run")  # rarer; each costs an import


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        pytest.param(*end, id=name, marks=pytest.mark.slow if name in SLOW else ())
        for name, end in ENDS.items()
    ],
)
def test_a_process_ends_cleanly(code, status, said) -> None:
    done = python(code)
    assert done.returncode == status and said in done.stderr
    assert said or done.stderr == ""


LOOPS = {
    "reading": "x.sum().item()",
    "recording": "x = x @ x * 1e-2",
}


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_ctrl_c_ends_a_loop_as_it_ends_python(loop) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", f"{BEGIN}print('go', flush=True)\nwhile True: {loop}\n"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "go\n"
        threading.Timer(0.3, process.send_signal, [signal.SIGINT]).start()
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode in (1, 130, -signal.SIGINT)
    assert said.rstrip().endswith("KeyboardInterrupt") and "terminate" not in said


def test_after_ctrl_c_the_next_cell_works() -> None:
    done = python(
        "import _thread\nthreading.Timer(0.3, _thread.interrupt_main).start()\n"
        "try:\n    while True: x = x @ x * 1e-2; x.sum().item()\n"
        "except KeyboardInterrupt: print('ended')\n"
        "print((torch.ones(3, device='moai') * 2).sum().item())\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended\n6.0\n", "")


def in_a_fork(use: Callable[[], object]) -> str:
    """What `use` raised in a forked child, or what it returned there."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = str(use())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as text:
        said = text.read()
    os.waitpid(child, 0)
    return said


FORKED = {
    "computing": lambda: torch.ones(1, device="moai").sum().item(),
    "moving": lambda: torch.ones(3).to("moai").cpu(),
    "training": lambda: nn.Linear(2, 2).to("moai")(torch.ones(1, 2, device="moai")).sum().backward(),
}


@pytest.mark.parametrize("use", FORKED.values(), ids=FORKED)
def test_a_forked_child_is_told_and_its_parent_goes_on(use) -> None:
    kept = torch.ones(1, device="moai") + 1
    kept.item()
    said = in_a_fork(use)
    assert said.startswith("RuntimeError") and "fork" in said
    assert (kept + 1).item() == 3


def test_a_forked_child_may_use_the_cpu() -> None:
    (torch.ones(1, device="moai") + 1).item()
    assert in_a_fork(lambda: torch.arange(4.0).sum().item()) == "6.0"
