"""A device with memory of its own, as a GPU is one: the CPU treated so (kernels/cpu/apart.h) gives the CPU's numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import moai
import pytest
import torch
import torch.nn.functional as F
from moai import _C
from small_nets import same
from test_devices import Gpt
from torch import nn


@contextlib.contextmanager
def apart(count: int = 1, plan: str = "fastest") -> Iterator[None]:
    moai.sync()
    _C.shut_down()
    _C.configure_devices("apart", count, (), -1, plan)
    try:
        yield
    finally:
        moai.configure(devices="cpu", plan="fastest")


def names() -> list[str]:
    return [one["name"] for one in moai.stats()["devices"]]


def trained(device: str, steps: int = 4) -> tuple[list[float], list[torch.Tensor]]:
    torch.manual_seed(0)
    model = Gpt().double().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    losses = []
    for step in range(steps):
        ids = torch.randint(37, (4, 7), generator=torch.Generator().manual_seed(step)).to(device)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, [p.detach().cpu() for p in model.parameters()]


@pytest.mark.parametrize("count", [1, 2])
def test_training_gives_the_same_numbers(count: int) -> None:
    with apart(count):
        losses, weights = trained("moai")
        assert names() == [f"apart:{d}" for d in range(count)]
    wanted_losses, wanted = trained("cpu")
    assert losses == pytest.approx(wanted_losses, rel=1e-10)
    for got, want in zip(weights, wanted, strict=True):
        same(got, want, 1e-10)


def all_same(got: list[torch.Tensor], wanted: list[torch.Tensor], dtype: torch.dtype) -> None:
    """Of the same dtypes, and as close as what was computed in `dtype` can be."""
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
    for one, want in zip(got, wanted, strict=True):
        assert one.dtype == want.dtype
        same(one.double(), want.double(), tolerance)


ATTENTION = [
    # query heads, key heads, queries, keys, dtype, causal, mask
    (3, 3, 6, 6, torch.float32, True, None),
    (4, 2, 5, 9, torch.float64, False, None),
    (2, 2, 7, 4, torch.float32, True, None),
    (2, 2, 4, 6, torch.float32, False, "added"),
    (2, 1, 4, 6, torch.float64, False, "bool"),
    (2, 2, 8, 8, torch.bfloat16, True, None),
]


@pytest.mark.parametrize(("heads", "key_heads", "queries", "keys", "dtype", "causal", "mask"), ATTENTION)
def test_attention_of_products(heads, key_heads, queries, keys, dtype, causal, mask) -> None:
    def attend(device: str) -> list[torch.Tensor]:
        torch.manual_seed(0)
        q, k, v = (
            torch.randn(2, h, n, 8, dtype=dtype).to(device).requires_grad_()
            for h, n in ((heads, queries), (key_heads, keys), (key_heads, keys))
        )
        added = torch.randn(queries, keys, dtype=dtype)
        chosen = {None: None, "added": added, "bool": (added > -0.5) | (torch.arange(keys) == 0)}[mask]
        out = F.scaled_dot_product_attention(
            q,
            k,
            v,
            chosen if chosen is None else chosen.to(device),
            is_causal=causal,
            enable_gqa=heads != key_heads,
        )
        out.backward(torch.ones_like(out) * torch.arange(8, device=device, dtype=dtype))
        return [t.detach().cpu() for t in (out, q.grad, k.grad, v.grad)]

    with apart():
        got = attend("moai")
    all_same(got, attend("cpu"), dtype)


NORMS = [
    # input's and weights' dtypes; batch norm in training and not
    ("layer", torch.bfloat16, torch.bfloat16),
    ("layer", torch.bfloat16, torch.float32),
    ("layer", torch.float64, torch.float64),
    ("batch", torch.float32, torch.float32),
    ("batch", torch.bfloat16, torch.float32),
    ("batch in evaluation", torch.float32, torch.float32),
]


@pytest.mark.parametrize(("kind", "dtype", "of_weights"), NORMS)
def test_norms_keep_what_the_cpu_keeps(kind: str, dtype: torch.dtype, of_weights: torch.dtype) -> None:
    def normed(device: str) -> list[torch.Tensor]:
        torch.manual_seed(0)
        x = torch.randn(5, 6, dtype=dtype).to(device).requires_grad_()
        module = nn.LayerNorm(6) if kind == "layer" else nn.BatchNorm1d(6)
        module = module.to(of_weights).to(device).train(kind != "batch in evaluation")
        y = module(x)
        y.backward(torch.linspace(-1, 1, 30, dtype=dtype).view(5, 6).to(device))
        return [t.detach().cpu() for t in (y, x.grad, module.weight.grad, module.bias.grad)]

    with apart():
        got = normed("moai")
    all_same(got, normed("cpu"), dtype)


def test_a_mask_for_all_keys_at_once() -> None:
    def attend(device: str) -> torch.Tensor:
        torch.manual_seed(0)
        q = torch.randn(2, 2, 4, 8).to(device)
        return F.scaled_dot_product_attention(q, q, q, torch.randn(4, 1).to(device)).cpu()

    with apart():
        got = attend("moai")
    same(got, attend("cpu"))


def test_an_element_is_read_without_the_rest() -> None:
    with apart():
        x = torch.arange(60.0).view(3, 4, 5).to("moai") * 2
        assert x[1, 2, 3].item() == 66 and x[:, 3, 4].tolist() == [38, 78, 118]
        assert x.tolist() == (torch.arange(60.0).view(3, 4, 5) * 2).tolist()


def drawn() -> list[torch.Tensor]:
    torch.manual_seed(3)
    x = torch.empty(6, 5, device="moai").normal_()
    return [
        x.cpu(),
        torch.nn.functional.dropout(x, 0.3).cpu(),
        torch.randperm(11, device="moai").cpu(),
        x.t().bernoulli_(0.4).cpu(),
        torch.multinomial(torch.ones(4, 9, device="moai"), 3).cpu(),
    ]


def test_random_numbers_are_those_of_the_cpu_device() -> None:
    with apart():
        got = drawn()
    for one, want in zip(got, drawn(), strict=True):
        assert torch.equal(one, want)


def test_values_are_where_they_are_wanted_when_devices_change() -> None:
    x = torch.arange(12.0).view(3, 4).to("moai")
    y = x * 2
    with apart():
        z = y + x
        assert z.sum().item() == 198
        x[1] = torch.full((4,), 7.0)  # a write from the host, into a value that lies on the device
        part = z[:, 1]
    assert names() == ["cpu:0"] or names() == []
    assert (z + 0).sum().item() == 198 and part.tolist() == [3, 15, 27]
    assert (x + 0)[1].tolist() == [7, 7, 7, 7]
    with apart():
        kept = x * 3
        moai.sync()
    with apart():  # another engine, whose memory is not where the value lies
        assert (kept + 0)[0].tolist() == [0, 3, 6, 9]
    moai.configure(devices="cpu:2")
    w = z @ z.t()
    moai.sync()
    with apart():
        assert torch.equal((w + 0).cpu(), (z.cpu() @ z.cpu().t()))


def test_ops_that_run_at_once_write_what_lies_on_the_device() -> None:
    with apart():
        x = torch.arange(6.0, device="moai") + 1
        assert torch.nonzero(x > 3).flatten().tolist() == [3, 4, 5]
        values, counts = torch.unique((x > 3).long(), return_counts=True)
        assert values.tolist() == [0, 1] and counts.tolist() == [3, 3]
        x.untyped_storage().resize_(8 * 4)
        assert x.tolist() == [1, 2, 3, 4, 5, 6]


def test_a_step_that_fails_leaves_the_state() -> None:
    with apart():
        state = torch.ones(4, device="moai")
        state += 1
        moai.sync()
        state += 1
        lost = torch.ones(2, device="moai")[torch.tensor([5]).to("moai")] * state
        with pytest.raises(IndexError, match="out of bounds"):
            moai.sync()
        assert state.tolist() == [2, 2, 2, 2] and lost.shape == (4,)
