"""Mistakes: what the CPU refuses at the call, moai refuses at the call, in the same words.

What only the data tells (an index out of range, memory that runs out) comes at the next read, names the op, and
leaves what was computed before as it was.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import moai
import pytest
import torch
import torch.nn.functional as F


@pytest.fixture(autouse=True)
def nothing_is_left_over() -> Iterator[None]:
    """A call that was recorded by mistake fails in its own test, not in the next one."""
    yield
    try:
        moai.sync()
    except (RuntimeError, IndexError):
        pass


class On:
    """Makes tensors on one device, briefly."""

    def __init__(self, device: str) -> None:
        self.device = device

    def f(self, *shape: int, **more: object) -> torch.Tensor:
        return torch.ones(*shape, device=self.device, **more)

    def i(self, *values: int) -> torch.Tensor:
        return torch.tensor(values).to(self.device)

    def leaf(self) -> torch.Tensor:
        return torch.ones(3, device=self.device, requires_grad=True)


def saved_and_overwritten(on: On) -> None:
    y = on.leaf().exp()
    y.add_(1)
    y.sum().backward()


BAD_CALLS: dict[str, Callable[[On], object]] = {
    "matmul": lambda on: on.f(2, 3) @ on.f(2, 3),
    "matmul_dtypes": lambda on: on.f(2, 2) @ on.f(2, 2, dtype=torch.float64),
    "bmm": lambda on: torch.bmm(on.f(2, 3, 4), on.f(3, 4, 5)),
    "mv": lambda on: torch.mv(on.f(2, 3), on.f(4)),
    "addmm_bias": lambda on: torch.addmm(on.f(7), on.f(2, 3), on.f(3, 4)),
    "linear": lambda on: F.linear(on.f(2, 3), on.f(4, 5)),
    "einsum": lambda on: torch.einsum("ij,jk->ik", on.f(2, 3), on.f(2, 3)),
    "attention": lambda on: F.scaled_dot_product_attention(
        on.f(1, 2, 3, 4), on.f(1, 2, 3, 5), on.f(1, 2, 3, 5)
    ),
    "broadcast": lambda on: on.f(2, 3) + on.f(2, 4),
    "cat": lambda on: torch.cat([on.f(2, 3), on.f(2, 4)]),
    "stack": lambda on: torch.stack([on.f(2, 3), on.f(2, 4)]),
    "view": lambda on: on.f(2, 3).view(4),
    "view_of_transposed": lambda on: on.f(2, 3).t().view(6),
    "reshape": lambda on: on.f(2, 3).reshape(5, -1),
    "expand": lambda on: on.f(2, 3).expand(4, 4),
    "as_strided": lambda on: on.f(3).as_strided((4,), (1,)),
    "split": lambda on: on.f(5).split([2, 2]),
    "chunk": lambda on: on.f(5).chunk(0),
    "repeat": lambda on: on.f(2, 3).repeat(2),
    "pad": lambda on: F.pad(on.f(2, 3), (1, 1, 1)),
    "permute": lambda on: on.f(2, 3).permute(0, 0),
    "transpose": lambda on: on.f(2, 3).transpose(0, 2),
    "unsqueeze": lambda on: on.f(2, 3).unsqueeze(7),
    "select": lambda on: on.f(2, 3)[4],
    "narrow": lambda on: on.f(2, 3).narrow(0, 1, 4),
    "sum_dim": lambda on: on.f(2, 3).sum(2),
    "softmax_dim": lambda on: on.f(2, 3).softmax(5),
    "max_of_nothing": lambda on: on.f(0).max(),
    "topk": lambda on: on.f(3).topk(4),
    "mean_of_integers": lambda on: on.i(1, 2).mean(),
    "gather_dtype": lambda on: on.f(2, 3).gather(0, on.f(2, 3)),
    "gather_dims": lambda on: on.f(2, 3).gather(0, on.i(0, 1)),
    "scatter_dims": lambda on: on.f(2, 3).scatter(0, on.i(0), on.f(1)),
    "index_select_dtype": lambda on: on.f(2, 3).index_select(0, on.f(2)),
    "index_dtype": lambda on: on.f(2, 3)[on.f(2)],
    "mask_shape": lambda on: on.f(2, 3)[on.f(3, dtype=torch.bool)],
    "masked_fill_dtype": lambda on: on.f(2, 3).masked_fill(on.f(3), 0.0),
    "where_dtype": lambda on: torch.where(on.f(2), on.f(2), on.f(2)),
    "embedding_dtype": lambda on: F.embedding(on.f(2), on.f(4, 5)),
    "bool_minus_bool": lambda on: on.f(2, dtype=torch.bool) - on.f(2, dtype=torch.bool),
    "in_place_broadcast": lambda on: on.f(3).add_(on.f(2, 3)),
    "in_place_grows_add": lambda on: on.f(1, 2).add_(on.f(4, 2)),
    "in_place_grows_mask": lambda on: on.f(1, 2).masked_fill_(on.f(4, 2) > 0, 3),
    "in_place_grows_pow": lambda on: on.f(1, 2).pow_(on.f(4, 2)),
    "in_place_grows_eq": lambda on: on.f(1, 2).eq_(on.f(4, 2)),
    "in_place_grows_clamp": lambda on: on.f(1, 2).clamp_(on.f(4, 2)),
    "out_is_an_operand_and_grows": lambda on: torch.add(a := on.f(1, 2), on.f(4, 2), out=a),
    "expanded_add": lambda on: on.f(2).expand(3, 2).add_(1),
    "expanded_copy": lambda on: on.f(2).expand(3, 2).copy_(on.f(3, 2)),
    "expanded_item": lambda on: on.f(2).expand(3, 2).__setitem__(slice(None), 7),
    "fill_with_many": lambda on: on.f(2, 3).fill_(on.f(3)),
    "index_add_shape": lambda on: on.f(1, 2).index_add_(0, on.i(0), on.f(1, 3)),
    "index_copy_shape": lambda on: on.f(1, 2).index_copy_(0, on.i(0), on.f(2, 2)),
    "mask_written_shape": lambda on: on.f(1, 2).__setitem__(on.f(4, 2) > 0, 1.0),
    "masked_scatter_shape": lambda on: on.f(1, 2).masked_scatter_(on.f(4, 2) > 0, on.f(8)),
    "addmm_empty_bias": lambda on: torch.addmm(on.f(0), on.f(1, 1), on.f(1, 1)),
    "addmv_empty_bias": lambda on: torch.addmv(on.f(0), on.f(2, 1), on.f(1)),
    "addbmm_empty_bias": lambda on: torch.addbmm(on.f(0), on.f(2, 1, 1), on.f(2, 1, 1)),
    "baddbmm_empty_bias": lambda on: torch.baddbmm(on.f(0), on.f(2, 1, 1), on.f(2, 1, 1)),
    "in_place_cast": lambda on: on.i(1, 2).add_(1.5),
    "in_place_integer_division": lambda on: on.i(1, 2).div_(2),
    "out_dtype": lambda on: torch.add(on.f(2), on.f(2), out=on.i(1, 2)),
    "in_place_on_leaf": lambda on: on.leaf().add_(1),
    "in_place_on_view_of_leaf": lambda on: on.leaf()[0].mul_(2),
    "float_class_targets": lambda on: F.nll_loss(on.f(2, 3), on.f(2)),
    "int_class_targets": lambda on: F.cross_entropy(on.f(2, 3), on.i(0, 1).int()),
    "targets_of_other_batch": lambda on: F.cross_entropy(on.f(2, 3), on.i(0, 1, 1)),
    "mse_shapes": lambda on: F.mse_loss(on.f(2, 3), on.f(2, 5)),
    "bce_shapes": lambda on: F.binary_cross_entropy(on.f(2), on.f(3)),
    "conv_channels": lambda on: F.conv2d(on.f(1, 3, 8, 8), on.f(4, 2, 3, 3)),
    "conv_dims": lambda on: F.conv2d(on.f(3, 8), on.f(4, 2, 3, 3)),
    "conv_kernel": lambda on: F.conv2d(on.f(1, 3, 2, 2), on.f(4, 3, 3, 3)),
    "layer_norm": lambda on: F.layer_norm(on.f(2, 3), (4,)),
    "group_norm": lambda on: F.group_norm(on.f(2, 3), 2),
    "batch_norm_of_one": lambda on: F.batch_norm(on.f(1, 3), None, None, training=True),
    "dropout": lambda on: F.dropout(on.f(3), 1.5),
    "cholesky": lambda on: torch.linalg.cholesky(on.f(2, 3)),
    "negative_size": lambda on: torch.randn(-1, device=on.device),
    "arange": lambda on: torch.arange(0, 5, -1, device=on.device),
    "item": lambda on: on.f(3).item(),
    "truth": lambda on: bool(on.f(3)),
    "backward_of_many": lambda on: (on.leaf() * 2).backward(),
    "backward_of_constant": lambda on: on.f(3).sum().backward(),
    "backward_after_overwriting": saved_and_overwritten,
}


def error_of(call: Callable[[On], object], device: str) -> tuple[type, str]:
    with pytest.raises(Exception) as caught:  # noqa: PT011, B017  which one is compared
        call(On(device))
    text = re.sub(r"moai(:0)?|cpu|torch\.FloatTensor|moaiFloatType", "DEVICE", str(caught.value))
    return type(caught.value), text.replace("DEVICEFloatType", "DEVICE")


@pytest.mark.parametrize("call", BAD_CALLS.values(), ids=BAD_CALLS)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_is_raised_at_the_call_as_on_the_cpu(call: Callable[[On], object]) -> None:
    assert error_of(call, "moai") == error_of(call, "cpu")


class OnKept(On):
    """Makes each tensor once, so that a second call records nothing but what is refused."""

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self.f, self.i = functools.cache(super().f), functools.cache(super().i)


REFUSED = BAD_CALLS | {
    "generator": lambda on: torch.rand(3, device=on.device, generator=torch.Generator()),
    "number_of_a_meta_tensor": lambda on: on.f(3) * torch.ones((), device="meta"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_refused_call_leaves_nothing_in_the_trace_that_it_interrupts(name: str) -> None:
    on = OnKept("moai")
    # A size of its own, so that the trace is made here.
    data = {device: torch.arange(50.0 + list(REFUSED).index(name)).to(device) for device in ("moai", "cpu")}

    def step(number: float, device: str) -> torch.Tensor:
        t = data[device]
        return (t[3:].mul(number) - t[1:-2] + number * 2).cumsum(0)

    with contextlib.suppress(Exception):
        REFUSED[name](on)
    for i in range(6):
        moai.sync()
        if i % 2 == 0:
            with contextlib.suppress(Exception):
                REFUSED[name](on)
        torch.testing.assert_close(step(i + 0.5, "moai").cpu(), step(i + 0.5, "cpu"))


MIXED_CALLS: dict[str, Callable[[torch.Tensor, torch.Tensor], object]] = {
    "add": lambda mine, host: mine + host,
    "matmul": lambda mine, host: mine @ host,
    "linear": lambda mine, host: F.linear(host, mine),
    "cat": lambda mine, host: torch.cat([mine, host]),
    "in_place": lambda mine, host: mine.mul_(host),
    "embedding": lambda mine, host: F.embedding(host.long(), mine),
    "where": lambda mine, host: torch.where(host > 0, mine, mine),
    "layer": lambda mine, host: torch.nn.Linear(2, 2).to("moai")(host),
}


@pytest.mark.parametrize("call", MIXED_CALLS.values(), ids=MIXED_CALLS.keys())
def test_a_tensor_left_on_the_cpu_is_refused_with_both_devices(call: Callable) -> None:
    with pytest.raises(RuntimeError, match="same device") as caught:
        call(torch.ones(2, 2, device="moai"), torch.ones(2, 2))
    assert "moai" in str(caught.value) and "cpu" in str(caught.value)


OUT_OF_RANGE: dict[str, tuple[Callable[[On], torch.Tensor], str]] = {
    "embedding": (lambda on: F.embedding(on.i(0, 99), on.f(4, 5)), "aten.embedding"),
    "gather": (lambda on: on.f(2, 3).gather(1, on.i(5).view(1, 1)), "aten.gather"),
    "scatter": (lambda on: on.f(2, 3).scatter(1, on.i(5).view(1, 1), 1.0), "aten.scatter"),
    "nll_loss": (lambda on: F.nll_loss(on.f(2, 3), on.i(0, 7)), "aten.nll_loss"),
    "cross_entropy": (lambda on: F.cross_entropy(on.f(2, 3), on.i(0, 7)), "aten.nll_loss"),
    "index_select": (lambda on: on.f(2, 3).index_select(0, on.i(4)), "aten.index_select"),
    "index": (lambda on: on.f(2, 3)[on.i(4)], "aten.index"),
    "index_put": (lambda on: on.f(2, 3).index_put_((on.i(4),), on.f(3)), "aten.index_put"),
    "index_add": (lambda on: on.f(2, 3).index_add(0, on.i(4), on.f(1, 3)), "aten.index_add"),
}
out_of_range = pytest.mark.parametrize(("call", "op"), OUT_OF_RANGE.values(), ids=OUT_OF_RANGE.keys())


@out_of_range
def test_an_index_out_of_range_names_the_op_at_the_next_read(call: Callable, op: str) -> None:
    expected, text = error_of(call, "cpu")
    result = call(On("moai"))
    with pytest.raises(expected) as caught:
        result.cpu()
    assert re.sub(r"moai(:0)?|cpu", "DEVICE", str(caught.value)).startswith(text)
    assert op in str(caught.value)


@out_of_range
def test_a_lost_tensor_says_so_whatever_is_done_with_it(call: Callable, op: str) -> None:
    result = call(On("moai"))
    with pytest.raises((RuntimeError, IndexError), match=op):
        result.cpu()
    for use in (
        lambda: result.cpu(),
        lambda: (result + 1).cpu(),
        lambda: result.sum().item(),
        lambda: repr(result),
    ):
        with pytest.raises((RuntimeError, IndexError), match="value is lost") as caught:
            use()
        assert op in str(caught.value)
        assert "frame #" not in str(caught.value)
        assert "internal error" not in str(caught.value)


@out_of_range
def test_a_failure_leaves_what_was_there(call: Callable, op: str) -> None:
    before = torch.arange(5.0).to("moai")
    moai.sync()
    view = before[1:]
    before.add_(0)
    with pytest.raises((RuntimeError, IndexError), match=op):
        call(On("moai")).cpu()
    assert before.tolist() == [0, 1, 2, 3, 4]
    assert (view * 2).tolist() == [2, 4, 6, 8]


def small_model(device: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Embedding(10, 4), torch.nn.Linear(4, 10)).to(device)


TRAINERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
    "adamw_fused": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    "adamw_foreach": lambda p: torch.optim.AdamW(p, lr=0.1, foreach=True),
}


def loss_of(model: torch.nn.Module, tokens: list[int]) -> torch.Tensor:
    device = next(model.parameters()).device
    return F.cross_entropy(model(torch.tensor(tokens).to(device)), torch.tensor(tokens[::-1]).to(device))


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, tokens: list[int]) -> torch.Tensor:
    optimizer.zero_grad()
    loss = loss_of(model, tokens)
    loss.backward()
    optimizer.step()
    return loss.detach()


def state_of(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    state = {name: value.detach().cpu().clone() for name, value in model.named_parameters()}
    for number, moments in optimizer.state_dict()["state"].items():
        state |= {f"{number}.{name}": value.cpu().clone() for name, value in moments.items() if value.is_moai}
    return state


@pytest.mark.parametrize("make", TRAINERS.values(), ids=TRAINERS.keys())
@pytest.mark.parametrize("good_steps", [1, 3])
def test_a_failed_step_leaves_weights_and_optimizer_and_the_next_one_is_right(
    make: Callable, good_steps: int
) -> None:
    model, host = small_model("moai"), small_model("cpu")
    optimizer, host_optimizer = make(model.parameters()), make(host.parameters())
    for number in range(good_steps):
        step(model, optimizer, [1, 2, number])
        step(host, host_optimizer, [1, 2, number])
    before = state_of(model, optimizer)
    with pytest.raises(IndexError, match="aten.embedding"):
        step(model, optimizer, [1, 99, 2]).item()
    torch.testing.assert_close(state_of(model, optimizer), before, rtol=0, atol=0)
    # Where the optimizer counts its steps on the host, the script has counted the failed one already.
    for moments in optimizer.state.values():
        if "step" in moments and not moments["step"].is_moai:
            moments["step"] -= 1
    for number in range(3):
        got, want = step(model, optimizer, [3, number, 5]), step(host, host_optimizer, [3, number, 5])
        assert got.item() == pytest.approx(want.item(), rel=1e-5)
    for name, value in host.named_parameters():
        torch.testing.assert_close(
            model.get_parameter(name).cpu(), value, rtol=1e-4, atol=1e-5, check_device=False
        )


def test_a_failed_step_that_nobody_reads_is_told_later() -> None:
    model = small_model("moai")
    optimizer = TRAINERS["sgd"](model.parameters())
    step(model, optimizer, [1, 99, 2])
    with pytest.raises(IndexError, match="aten.embedding"):
        moai.sync()


@pytest.mark.parametrize("cut_off", ["in_the_middle", "in_the_directory", "at_once"])
def test_a_checkpoint_that_was_cut_off_leaves_the_model_as_it_was(cut_off: str, tmp_path: Path) -> None:
    model = small_model("moai")
    optimizer = TRAINERS["adamw"](model.parameters())
    step(model, optimizer, [1, 2, 3])
    path = tmp_path / "checkpoint.pt"
    torch.save([model.state_dict(), optimizer.state_dict()], path)
    step(model, optimizer, [4, 5, 6])
    whole = path.read_bytes()
    left = {"in_the_middle": len(whole) // 2, "in_the_directory": len(whole) - 10, "at_once": 0}[cut_off]
    path.write_bytes(whole[:left])
    before = state_of(model, optimizer)
    for map_location in (None, "moai", "cpu"):
        with pytest.raises((RuntimeError, EOFError, OSError, ValueError)):
            model.load_state_dict(torch.load(path, map_location=map_location)[0])
    torch.testing.assert_close(state_of(model, optimizer), before, rtol=0, atol=0)
    path.write_bytes(whole)
    weights, moments = torch.load(path, map_location="moai")
    model.load_state_dict(weights)
    optimizer.load_state_dict(moments)
    assert step(model, optimizer, [4, 5, 6]).isfinite()


def test_weights_of_another_shape_are_refused_as_on_the_cpu() -> None:
    texts = []
    for device in ("moai", "cpu"):
        model = small_model(device)
        before = {name: value.cpu().clone() for name, value in model.state_dict().items()}
        bad = {**model.state_dict(), "1.weight": torch.ones(3, 3, device=device), "2.bias": torch.ones(1)}
        with pytest.raises(RuntimeError, match="size mismatch for 1.weight") as caught:
            model.load_state_dict(bad)
        texts.append(str(caught.value))
        after = {name: value.cpu() for name, value in model.state_dict().items()}
        torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert texts[0] == texts[1]


def test_the_users_line_is_named_where_a_step_fails_late() -> None:
    def wrong() -> torch.Tensor:
        return F.embedding(torch.tensor([99]).to("moai"), torch.ones(4, 5, device="moai"))

    result = wrong()
    with pytest.raises(IndexError) as caught:
        result.cpu()
    line = wrong.__code__.co_firstlineno + 1
    assert f"test_errors.py:{line}" in str(caught.value)


def test_a_dry_run_has_shapes_and_no_values() -> None:
    with moai.dry_run():
        dry = torch.ones(2, 3, device="moai") @ torch.ones(3, 4, device="moai")
        assert dry.shape == (2, 4)
        with pytest.raises(RuntimeError, match="dry run"):
            dry.sum().item()
    for use in (lambda: dry.cpu(), lambda: repr(dry), lambda: (dry + 1).cpu(), lambda: dry.sum().item()):
        with pytest.raises(RuntimeError, match=r"recorded in (a dry run|moai\.dry_run)") as caught:
            use()
        assert "internal error" not in str(caught.value)


# ---- Options are read at import, so each of these is a process of its own.


def python(code: str, **variables: str) -> subprocess.CompletedProcess:
    own = ("MOAI_CACHE", "MOAI_STATUS")  # the tests' folders
    environment = {n: v for n, v in os.environ.items() if n in own or not n.startswith("MOAI_")}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=120,
    )


TOPICS = ("all", "cut", "compile", "trace", "at_once", "memory")
BAD_OPTIONS = [
    ("MOAI_DEVISES", "cpu", ("MOAI_DEVICES", "MOAI_DEVICE_MEMORY", "MOAI_LOG")),
    ("MOAI_LOG", "cutt", TOPICS),
    ("MOAI_LOG", "cut,nothing", TOPICS),
    ("MOAI_DEVICE_MEMORY", "lots", ("MiB", "GiB")),
    ("MOAI_DEVICE_MEMORY", "-1", ("MiB", "GiB")),
    ("MOAI_DEVICE_MEMORY", "2XB", ("MiB", "GiB")),
    ("MOAI_DEVICES", "cuda:3-1", ("cpu", "cpu:1", "cuda:0-3")),
    ("MOAI_DEVICES", "cpu:0", ("cpu", "cpu:1", "cpu:1024")),
    ("MOAI_DEVICES", "cpu:1025", ("cpu", "cpu:1", "cpu:1024")),
    ("MOAI_DEVICES", "cpu:two", ("cpu", "cpu:1", "cpu:1024")),
    ("MOAI_PLAN", "nowhere.json", ("fastest", "dp=2,tp=2", "random:SEED")),
]


@pytest.mark.parametrize(
    ("variable", "value", "valid"), BAD_OPTIONS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_a_bad_option_is_refused_with_the_valid_ones(
    variable: str, value: str, valid: tuple[str, ...]
) -> None:
    run = python("import moai", **{variable: value})
    assert run.returncode == 1
    said = run.stderr[run.stderr.index("ValueError: moai config:") :]
    assert variable in said and "valid:" in said
    assert all(word in said.split("valid:")[1] for word in valid)


def test_one_device_may_be_numbered() -> None:
    for devices in ("cpu", "cpu:1"):
        run = python(
            "import moai, torch; print(torch.ones(3, device='moai').sum().item())", MOAI_DEVICES=devices
        )
        assert run.stdout == "3.0\n", run.stderr


def test_running_out_of_memory_says_how_much_and_the_process_goes_on() -> None:
    run = python(
        """
        import torch, moai
        kept = torch.arange(100.0).to("moai")
        moai.sync()
        try:
            torch.ones(1024, 1024, device="moai").sum().item()
        except torch.OutOfMemoryError as error:
            print(error)
        print((kept + 1).sum().item(), torch.ones(64, 64, device="moai").sum().item())
        """,
        MOAI_DEVICE_MEMORY="1MiB",
    )
    assert run.returncode == 0, run.stderr
    assert "out of memory" in run.stdout and "MOAI_DEVICE_MEMORY" in run.stdout
    assert "4.0 MiB asked for" in run.stdout
    assert "largest values then: 4.0 MiB f32[1024,1024] of aten." in run.stdout
    assert run.stdout.endswith("5050.0 4096.0\n")


def test_a_script_that_ends_with_an_unread_failure_says_so() -> None:
    run = python(
        """
        import torch, moai
        lost = torch.nn.functional.embedding(torch.tensor([9]).to("moai"), torch.ones(4, 5, device="moai"))
        moai.sync()
        """
    )
    assert run.returncode == 1
    assert "IndexError" in run.stderr and "aten.embedding" in run.stderr


@pytest.mark.parametrize("op", [torch.softmax, torch.sort], ids=["softmax", "sort"])
def test_a_dim_is_refused_also_after_a_good_one(op):
    x = torch.ones(2, 3, device="moai")
    for dims in (x, x[0]):
        op(dims, dim=dims.dim() - 1)
        with pytest.raises(IndexError, match="Dimension out of range"):
            op(dims, dim=dims.dim())
