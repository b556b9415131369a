"""Derivatives that torch takes by reading on the host: the same here, and nothing is read."""

from __future__ import annotations

import moai
import pytest
import torch
from torch.autograd import grad

NO_ZERO = [[1.0, 2.0, -3.0, 0.5], [2.0, 4.0, 1.0, -1.0]]
ZEROS = [
    [1.0, 0.0, -3.0, 0.5],
    [2.0, 0.0, 0.0, -1.0],
    [0.0, 2.0, 3.0, 4.0],
    [1.0, 2.0, 3.0, 4.0],
    [1.0, 2.0, 3.0, 0.0],
]
MASK = torch.tensor([True, False, False, True])

CALLS = {
    "prod": lambda x: x.prod(),
    "prod_dim": lambda x: x.prod(0),
    "prod_last_dim": lambda x: x.prod(-1, keepdim=True),
    "prod_of_one": lambda x: x[:1].prod(0) + x[0, 0].prod(),
    "prod_in_double": lambda x: x.real.prod(1, dtype=torch.float64),
    "prod_in_integers": lambda x: x * x.detach().real.prod(dtype=torch.int64),
    "cumprod": lambda x: x.cumprod(1),
    "cumprod_dim": lambda x: x.cumprod(0),
    "cumprod_in_place": lambda x: (x * 1).cumprod_(-1),
    "masked_fill": lambda x: x.masked_fill(MASK.to(x.device), x[0, 0]),
    "masked_fill_in_place": lambda x: (x * 1).masked_fill_(MASK.to(x.device), x.sum()),
    "masked_fill_of_a_number": lambda x: x.sum().masked_fill(MASK.to(x.device), x[0, 0]),
    "index_fill": lambda x: x.index_fill(-1, MASK.to(x.device).long(), x[0, 0]),
    "index_fill_in_place": lambda x: (x * 1).index_fill_(0, MASK.to(x.device).long(), x.sum()),
    "combinations": lambda x: torch.combinations(x[0], 3, with_replacement=True),
    "no_combinations": lambda x: torch.combinations(x[0], 5),
}  # fmt: skip


@pytest.mark.parametrize("values", [NO_ZERO, ZEROS], ids=["no_zero", "zeros"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_gradient_reads_nothing(call, dtype, values):
    theirs = torch.tensor(values, dtype=dtype, requires_grad=True)
    ours = theirs.detach().to("moai").requires_grad_()
    moai.sync()
    before = moai.stats()
    seen = []
    for x in (ours, theirs):
        out = call(x)
        out = out.to(torch.complex64 if dtype.is_complex else torch.float32)
        weights = torch.arange(1.0, out.numel() + 1).view(out.shape).to(x.device, out.dtype)
        seen.append([out.detach(), *grad(out, x, weights)])
    after = moai.stats()
    assert (after["cuts"], after["ops_at_once"]) == (before["cuts"], before["ops_at_once"])
    for a, b in zip(*seen, strict=True):
        torch.testing.assert_close(a.cpu(), b)


@pytest.mark.parametrize("values", [NO_ZERO, ZEROS], ids=["no_zero", "zeros"])
@pytest.mark.parametrize("name", ["prod_last_dim", "prod_dim", "cumprod", "masked_fill", "index_fill"])
def test_second_derivative(name, values):
    seen = []
    for device in ("moai", "cpu"):
        x = torch.tensor(values, dtype=torch.float64).to(device).requires_grad_()
        (first,) = grad(CALLS[name](x).square().sum(), x, create_graph=True)
        seen.append(grad(first.square().sum(), x)[0].cpu())
    torch.testing.assert_close(*seen)


def test_transforms_are_torchs_own():
    x = torch.tensor(ZEROS)
    for call in (CALLS["prod_dim"], CALLS["cumprod"], CALLS["masked_fill"], CALLS["index_fill"]):
        ours = torch.func.jvp(call, (x.to("moai"),), (x.to("moai"),))[1]
        torch.testing.assert_close(ours.cpu(), torch.func.jvp(call, (x,), (x,))[1])
        ours = torch.func.vjp(call, x.to("moai"))
        theirs = torch.func.vjp(call, x)
        torch.testing.assert_close(ours[1](ours[0])[0].cpu(), theirs[1](theirs[0])[0])


def test_writing_what_is_lazily_conjugated_and_negated():
    start = torch.tensor([1 + 2j, 3 - 1j])

    def write(device):
        base = start.to(device)
        base.conj()[0].copy_(base[1])
        base.conj().imag[1].copy_(base.real[1] * 3)
        return base, base.conj().copy_(base * 2).resolve_conj()

    moai.sync()
    before = moai.stats()["ops_at_once"]
    ours = write("moai")
    assert moai.stats()["ops_at_once"] == before
    for a, b in zip(ours, write("cpu"), strict=True):
        assert torch.equal(a.cpu(), b)


@pytest.mark.parametrize("name", ["silu", "mish"])
def test_an_activations_gradient_is_one_op(name):
    x = torch.randn(5, device="moai", requires_grad=True)
    grad(getattr(torch.nn.functional, name)(x).sum(), x)[0].cpu()
    assert f"aten.{name}_backward(" in moai.dump()
