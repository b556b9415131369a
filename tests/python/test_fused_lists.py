"""Chains of ops on lists of tensors, as optimizers make them, are one kernel over all tensors, and it gives the numbers
that the ops give one by one (compiled as C++; NVRTC takes the CUDA text)."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import moai
import pytest
import torch
import torch.nn.functional as F
from moai import _C
from test_devices import Gpt
from test_fused import BF16, F16, F32, F64, LIBRARY, compiled_by_nvrtc, fused

Lists = list[list[torch.Tensor]]
# A chunk is 65536 elements, a pack 2 to 8.
SIZES = [(), (1,), (7,), (8,), (16, 3), (5, 1, 9), (0,), (65536 + 5,), (2, 65536), (70001,)]


def chains(dump: str) -> list[str]:
    """The graphs of one element that fused lists of a dump stand for."""
    quoted = re.findall(r'moai\.fused_lists\("((?:[^"\\]|\\.)*)"', dump)
    return [text.encode().decode("unicode_escape") for text in quoted]


def lists_of(rng: random.Random, count: int, dtype: torch.dtype) -> Lists:
    """So many lists of tensors that lie alike; some lie transposed, or begin within their memory."""
    lists: Lists = [[] for _ in range(count)]
    for _ in range(rng.randint(1, 9)):
        sizes = rng.choice(SIZES)
        how = rng.randrange(3)
        for one in lists:
            x = torch.rand(sizes, dtype=F64).to(dtype) + 0.25
            if how == 1 and len(sizes) == 2:
                x = x.t().contiguous().t()
            if how == 2 and len(sizes) == 1:
                x = torch.cat([x[:1], x])[len(x[:1]) :]
            one.append(x)
    return lists


def adamw_by_hand(lists: Lists) -> None:
    params, grads, first, second = lists
    torch._foreach_mul_(grads, torch.tensor(0.75, dtype=grads[0].dtype).to(grads[0].device))
    torch._foreach_mul_(params, 1 - 1e-2)
    torch._foreach_lerp_(first, grads, 0.1)
    torch._foreach_mul_(second, 0.99)
    torch._foreach_addcmul_(second, grads, grads, 0.01)
    root = torch._foreach_sqrt(second)
    torch._foreach_div_(root, [1 + 0.1 * i for i in range(len(root))])
    torch._foreach_add_(root, 1e-3)
    torch._foreach_addcdiv_(params, first, root, [-0.1 - 0.01 * i for i in range(len(root))])


def many_ops(lists: Lists) -> None:
    a, b, c, d = lists
    torch._foreach_add_(a, b, alpha=0.5)
    torch._foreach_maximum_(b, c)
    torch._foreach_sub_(b, a, alpha=2)
    torch._foreach_div_(c, torch._foreach_abs(torch._foreach_neg(a)))
    torch._foreach_copy_(d, torch._foreach_mul(a, torch._foreach_reciprocal(torch._foreach_exp(c))))
    torch._foreach_lerp_(a, d, c)
    torch._foreach_add_(c, [0.1 * i for i in range(len(c))])
    torch._foreach_addcmul_(b, c, d, [0.3 * i for i in range(len(c))])
    torch._foreach_mul_(d, torch._foreach_sign(c))


def optimizer_step(make: Callable[[Lists], torch.optim.Optimizer]) -> Callable[[Lists], None]:
    def step(lists: Lists) -> None:
        for param, grad in zip(lists[0], lists[1], strict=True):
            param.grad = grad
        optimizer = make([lists[0]])
        for _ in range(2):
            torch.nn.utils.clip_grad_norm_(lists[0], 1.0, error_if_nonfinite=False)
            optimizer.step()
        for at, key in ((2, "exp_avg"), (3, "exp_avg_sq")):
            lists[at] = [optimizer.state[p].get(key, p) for p in lists[0]]

    return step


ADAMW = {"lr": 0.1, "weight_decay": 0.1}
PROGRAMS: dict[str, tuple[Callable[[Lists], None], int]] = {
    "AdamW by hand": (adamw_by_hand, 9),
    "many ops": (many_ops, 9),
    "AdamW": (optimizer_step(lambda p: torch.optim.AdamW(p[0], **ADAMW)), 9),
    "fused AdamW": (optimizer_step(lambda p: torch.optim.AdamW(p[0], **ADAMW, fused=True)), 2),
    "fused AMSGrad": (
        optimizer_step(lambda p: torch.optim.AdamW(p[0], **ADAMW, fused=True, amsgrad=True, maximize=True)),
        2,
    ),
    "fused Adam": (optimizer_step(lambda p: torch.optim.Adam(p[0], **ADAMW, fused=True)), 2),
    "SGD": (optimizer_step(lambda p: torch.optim.SGD(p[0], lr=0.1, momentum=0.9, weight_decay=0.1)), 3),
}


def run(program: Callable[[Lists], None], lists: Lists) -> tuple[Lists, str]:
    """What the program makes of them on moai, and the dump of its step."""
    there = [[x.to("moai") for x in one] for one in lists]
    moai.sync()
    program(there)
    moai.sync()
    dump = moai.dump()
    return [[x.detach().cpu() for x in one] for one in there], dump


TOLERANCE = {F64: 1e-13, F32: 1e-5, F16: 1e-2, BF16: 6e-2}


@pytest.mark.parametrize("dtype", [F64, F32, F16, BF16])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_chain_is_one_kernel_with_atens_numbers(name: str, dtype: torch.dtype) -> None:
    program, ops = PROGRAMS[name]
    lists = lists_of(random.Random(f"{name} {dtype}"), 4, dtype)
    want = [[x.clone() for x in one] for one in lists]
    program(want)
    with fused():
        got, dump = run(program, lists)
    found = chains(dump)
    assert max(len(re.findall(r" = aten\.", text)) for text in found) >= ops, dump
    for one, wanted in zip(got, want, strict=True):
        for x, y in zip(one, wanted, strict=True):
            torch.testing.assert_close(x, y.detach(), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    if LIBRARY.exists():
        for text in found:
            assert compiled_by_nvrtc(_C.list_kernel_text(text, True)) == ""


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", [F32, BF16])
def test_how_many_tensors_there_are_changes_no_bit(dtype: torch.dtype, seed: int) -> None:
    lists = lists_of(random.Random(10 + seed), 4, dtype)

    def chain(lists: Lists) -> None:
        torch._foreach_mul_(lists[0], 0.75)
        torch._foreach_lerp_(lists[1], lists[0], 0.1)
        torch._foreach_addcmul_(lists[2], lists[0], lists[1], 0.3)
        torch._foreach_addcdiv_(lists[3], lists[1], torch._foreach_sqrt(lists[2]), -0.1)

    def one_after_the_other(lists: Lists) -> None:
        for i in range(len(lists[0])):
            chain([[one[i]] for one in lists])
            moai.sync()

    with fused():
        apart, _ = run(one_after_the_other, lists)
        whole, dump = run(chain, lists)
    assert len(chains(dump)) == 1
    for one, other in zip(apart, whole, strict=True):
        for x, y in zip(one, other, strict=True):
            assert torch.equal(x, y)


@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.parametrize("fused_adamw", [False, True])
def test_clipping_and_adamw_of_a_whole_model_are_a_launch_for_each_kind_of_group(
    fused_adamw: bool, groups: bool
) -> None:
    """Parameters of one and of two dims, whose gradients lie in other dims; with and without decay."""

    def train(device: str) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = Gpt(layers=2).double().to(device)
        parameters = list(model.parameters())
        parts = [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(
            parts if groups else parameters, **ADAMW, eps=1e-3, fused=fused_adamw or None
        )
        for step in range(3):
            ids = torch.randint(37, (4, 7), generator=torch.Generator().manual_seed(step)).to(device)
            loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 0.5)
            optimizer.step()
        moai.sync()
        return [x for p in parameters for x in (p, p.grad, optimizer.state[p]["exp_avg_sq"])]

    with fused():
        got = train("moai")
        ops = re.findall(r"^  \d+: .*? = ([\w.]+)", moai.dump().partition("\nprogram")[2], re.M)
        got = [x.detach().cpu() for x in got]
    after_norm = ops[ops.index("aten._foreach_norm.Scalar") :]
    launches = [op for op in after_norm if op.startswith(("moai.fused_lists", "aten._f", "copy"))]
    steps = ["aten._foreach_add_.Scalar"] * (2 if groups else 1) if fused_adamw else []
    # Without decay AdamW is other ops, where it is op by op.
    lists = ["moai.fused_lists"] * (2 if groups and not fused_adamw else 1)
    assert sorted(launches) == sorted(["aten._foreach_norm.Scalar", *steps, *lists]), ops
    for x, y in zip(got, train("cpu"), strict=True):
        torch.testing.assert_close(x, y.detach(), rtol=1e-10, atol=1e-12)


def test_schedules_and_step_counts_cause_no_new_kernel() -> None:
    with fused():
        params = [torch.ones(n, device="moai", requires_grad=True) for n in (3, 5)]
        optimizer = torch.optim.AdamW(params, lr=0.1)
        for step in range(5):
            before = moai.stats()["compiles"]
            optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
            for p in params:
                p.grad = torch.ones_like(p)
            optimizer.step()
            moai.sync()
        assert moai.stats()["compiles"] == before


def test_an_infinite_gradient_leaves_everything_as_it_was() -> None:
    """GradScaler's way: the scale is divided by, and what was found decides, on the device."""

    def step(device: str, infinite: bool) -> list[torch.Tensor]:
        p = [torch.ones(5, device=device), torch.full((3,), 2.0, device=device)]
        grads, first, second = ([x * k for x in p] for k in (8.0, 0.5, 0.25))
        torch._foreach_mul_(grads, 2.0)
        torch._fused_adamw_(
            p, grads, first, second, [], [torch.ones((), device=device)] * 2,
            lr=0.1, beta1=0.9, beta2=0.99, weight_decay=0.1, eps=1e-8, amsgrad=False, maximize=False,
            grad_scale=torch.full((), 4.0, device=device),
            found_inf=torch.full((), float(infinite), device=device),
        )  # fmt: skip
        moai.sync()
        dump = moai.dump() if device == "moai" else ""
        assert device == "cpu" or "_fused_adamw_([%" in chains(dump)[0]
        return [x.cpu() for x in (*p, *first, *second)]

    for infinite in (False, True):
        with fused():
            got = step("moai", infinite)
        for x, y in zip(got, step("cpu", infinite), strict=True):
            torch.testing.assert_close(x, y)


def test_where_a_kernel_does_not_compile_atens_ops_run(tmp_path: Path) -> None:
    """`c++` is one that refuses."""
    refuses = tmp_path / "c++"
    refuses.write_text("#!/bin/sh\nexit 1\n")
    refuses.chmod(0o755)
    script = """
        import torch, moai
        moai._C.configure_devices("fused", 1, (), -1, "")
        def step(device):
            p = [torch.arange(4.0).to(device), torch.ones(2, 3).to(device)]
            q = [x * 2 for x in p]
            torch._foreach_mul_(p, 3)
            r = torch._foreach_sqrt(p)
            torch._foreach_addcmul_(q, p, r, [0.5, 0.25])
            return [x.cpu().tolist() for x in (*p, *q, *r)]
        assert step("moai") == step("cpu")
        assert "moai.fused_lists" in moai.dump()
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        env={"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("ATen's ops run in its place") == 1
