"""Storages of bytes, what deepcopy, pickle and torch.load make; and version counters."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from scenarios import equal_on_both
from torch import nn

F64 = torch.float64


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
