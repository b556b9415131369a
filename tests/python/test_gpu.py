"""On a GPU: the CPU's numbers. Skipped where there is none, with the reason."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import moai
import pytest
import torch
import torch.nn.functional as F
from moai import _C
from small_nets import same
from test_apart import ATTENTION, trained
from test_fused import PROGRAMS, rows
from test_fused_lists import PROGRAMS as LIST_PROGRAMS
from test_fused_lists import TOLERANCE, chains, lists_of, run

WHY = _C.why_no_gpu()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(WHY), reason=f"no GPU for moai: {WHY}")]


@contextlib.contextmanager
def gpu() -> Iterator[None]:
    moai.configure(devices="cuda:0")
    try:
        yield
    finally:
        moai.configure(devices="cpu")


def test_training_gives_the_same_numbers() -> None:
    with gpu():
        losses, weights = trained("moai")
        assert [one["name"] for one in moai.stats()["devices"]] == ["cuda:0"]
    wanted_losses, wanted = trained("cpu")
    assert losses == pytest.approx(wanted_losses, rel=1e-10)
    for got, want in zip(weights, wanted, strict=True):
        same(got, want, 1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("heads", "key_heads", "queries", "keys"), [row[:4] for row in ATTENTION])
@pytest.mark.parametrize("width", [64, 10])
def test_attention(
    heads: int, key_heads: int, queries: int, keys: int, width: int, dtype: torch.dtype
) -> None:
    def attend(device: str) -> list[torch.Tensor]:
        torch.manual_seed(0)
        q, k, v = (
            torch.randn(2, h, n, width, dtype=dtype).to(device).requires_grad_()
            for h, n in ((heads, queries), (key_heads, keys), (key_heads, keys))
        )
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=heads != key_heads)
        out.sum().backward()
        return [t.detach().cpu() for t in (out, q.grad, k.grad, v.grad)]

    with gpu():
        got = attend("moai")
    for one, want in zip(got, attend("cpu"), strict=True):
        same(one.float(), want.float(), 1e-4 if dtype == torch.float32 else 4e-2)


def drawn() -> list[torch.Tensor]:
    torch.manual_seed(5)
    x = torch.empty(33, 7, device="moai")
    return [
        x.uniform_(2, 3).cpu(),
        x.normal_().cpu(),
        F.dropout(x, 0.4).cpu(),
        torch.randperm(50, device="moai").cpu(),
    ]


def test_random_numbers_are_those_of_the_cpu() -> None:
    with gpu():
        got = drawn()
    for one, want in zip(got, drawn(), strict=True):
        same(one, want, 1e-6)


@pytest.mark.parametrize("name", PROGRAMS)
def test_fused_kernels(name: str) -> None:
    program, sizes = PROGRAMS[name]
    operands = [rows(*size) for size in sizes]
    with gpu():
        got = [one.cpu() for one in program(*(x.to("moai") for x in operands))]
    for one, want in zip(got, program(*operands), strict=True):
        torch.testing.assert_close(one, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LIST_PROGRAMS)
def test_fused_lists(name: str, dtype: torch.dtype) -> None:
    program, _ = LIST_PROGRAMS[name]
    lists = lists_of(random.Random(name), 4, dtype)
    with gpu():
        got, dump = run(program, lists)
    assert chains(dump)
    program(lists)
    for one, wanted in zip(got, lists, strict=True):
        for x, y in zip(one, wanted, strict=True):
            torch.testing.assert_close(x, y.detach(), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_out_of_memory_names_the_largest_values_and_the_process_goes_on() -> None:
    with gpu():
        x = torch.ones(1 << 20, device="moai")
        with pytest.raises(torch.OutOfMemoryError, match="largest values then"):
            (x.unsqueeze(0) @ x.expand(1 << 22, -1).t()).sum().item()
        assert x.sum().item() == 1 << 20


def test_statistics_name_the_gpu() -> None:
    with gpu():
        torch.ones(4, device="moai").sum().item()
        one = moai.stats()["devices"][0]
    assert one["gpu"] and 0 < one["used_bytes"] <= one["memory_bytes"] and 0 <= one["utilisation"] <= 100
