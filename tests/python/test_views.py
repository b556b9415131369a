"""Views become slice, reshape, permute and expand: 10,000 random chains of torch's views against the steps found."""

from __future__ import annotations

import ast
import random
import re

import torch
from moai import _C

CHAINS = 10_000


def random_view(t: torch.Tensor, pick: random.Random) -> torch.Tensor:
    """One more view of `t`, of a kind that keeps elements apart."""
    dim = pick.randrange(t.dim()) if t.dim() else 0
    kind = pick.choice(
        ["permute", "narrow", "step", "select", "unsqueeze", "expand", "flatten", "unflatten", "squeeze"]
    )
    if kind == "unsqueeze" or t.dim() == 0:
        return t.unsqueeze(pick.randrange(t.dim() + 1))
    size = t.size(dim)
    if kind == "permute":
        return t.permute(pick.sample(range(t.dim()), t.dim()))
    if kind == "narrow":
        start = pick.randrange(size)
        return t.narrow(dim, start, pick.randint(1, size - start))
    if kind == "step":
        index = [slice(None)] * t.dim()
        index[dim] = slice(pick.randrange(size), None, pick.randint(1, 3))
        return t[tuple(index)]
    if kind == "select" and t.dim() > 1:
        return t.select(dim, pick.randrange(size))
    if kind == "expand" and size == 1:
        return t.expand([pick.randint(2, 3) if d == dim else -1 for d in range(t.dim())])
    if kind == "unflatten":
        divisors = [n for n in range(2, size) if size % n == 0]
        return t.unflatten(dim, (n := pick.choice(divisors), size // n)) if divisors else t
    if kind == "flatten" and dim + 1 < t.dim() and t.stride(dim) == t.size(dim + 1) * t.stride(dim + 1):
        return t.flatten(dim, dim + 1)
    return t.squeeze(dim) if kind == "squeeze" else t


def text_of(base: torch.Tensor, view: torch.Tensor) -> str:
    numbers = lambda values: ",".join(map(str, values))  # noqa: E731
    return (
        f"graph(%0: i64[{numbers(base.shape)}]) {{\n %1: i64[{numbers(view.shape)}]{{{numbers(view.stride())}}}"
        f" = view(%0, offset={view.storage_offset()})\n return %1\n}}"
    )


def follow(text: str, base: torch.Tensor) -> torch.Tensor:
    """What the steps of a canonical graph make of `base`, by torch's own reshape, slice, permute and expand."""
    values = {"%0": base}
    for result, op, args in re.findall(r"(%\d+): \S+ = (\S+?)\((.*)\)\n", text):
        name, *rest = args.split(", ", 1)
        given = ast.literal_eval(f"[{rest[0]}]") if rest and op != "view" else []
        x = values[name]
        if op == "moai.slice":
            dim, start, length, step = given
            index = [slice(None)] * x.dim()
            index[dim] = slice(start, start + (length - 1) * step + 1 if length else start, step)
            values[result] = x[tuple(index)]
        else:
            method = {"moai.reshape": "reshape", "moai.permute": "permute", "moai.expand": "expand"}[op]
            values[result] = getattr(x, method)(given[0])
    return values[re.search(r"return (%\d+)", text)[1]]


def test_chains_of_views_find_steps_that_mean_the_same() -> None:
    pick = random.Random(0)
    for chain in range(CHAINS):
        sizes = [pick.choice([1, 2, 3, 4, 6]) for _ in range(pick.randint(1, 4))]
        base = torch.arange(torch.Size(sizes).numel()).view(sizes)
        view = base
        for _ in range(pick.randint(1, 6)):
            view = random_view(view, pick)
        found = _C.canonicalise_views(text_of(base, view))
        assert " view(" not in found, f"chain {chain}: {text_of(base, view)} has no steps"
        got = follow(found, base)
        assert got.shape == view.shape and torch.equal(got, view), (
            f"chain {chain}: {text_of(base, view)}\n{found}"
        )
