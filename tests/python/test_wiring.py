"""Random programs, several rounds each: the same ops wired otherwise, with other offsets, static arguments and numbers, in
alternation, must give the CPU's values each time. A failure prints the seed that makes the program again."""

from __future__ import annotations

import os
import random

import pytest
import torch

PROGRAMS = 3000 if os.environ.get("MOAI_TEST_FULL") == "1" else 200
ROUNDS = 4
STATEMENTS = 14
SIZE = 4

VIEWS = (
    lambda t, r: t,
    lambda t, r: t.t(),
    lambda t, r: t[r.randrange(SIZE)].expand(SIZE, SIZE),
    lambda t, r: t.reshape(-1)[r.randrange(3) :][: SIZE * 2].view(2, SIZE).repeat(2, 1),
    lambda t, r: t.flatten().as_strided((SIZE, SIZE), (1, 2), r.randrange(3)),
    lambda t, r: t.diagonal().unsqueeze(1).expand(SIZE, SIZE),
)
WRITTEN = (
    lambda t, r: t,
    lambda t, r: t.t(),
    lambda t, r: t[r.randrange(SIZE) :],
    lambda t, r: t[:, r.randrange(SIZE)],
    lambda t, r: t.view(-1)[r.randrange(4) :: 3],
    lambda t, r: t.diagonal(),
)
OPS = (
    lambda a, b, r: a + b,
    lambda a, b, r: a * b * 0.5,
    lambda a, b, r: torch.sub(a, b, alpha=r.choice((1, 0.5, 2))),
    lambda a, b, r: (a @ b) / SIZE,
    lambda a, b, r: a.tanh() * r.uniform(0.5, 1.5),
    lambda a, b, r: torch.where(a > b, a, b),
    lambda a, b, r: a.softmax(r.randrange(2)),
    lambda a, b, r: torch.cat([a, b], r.randrange(2))[:SIZE, :SIZE],
    lambda a, b, r: a.sum(r.randrange(2), keepdim=True).expand(SIZE, SIZE) / SIZE,
    lambda a, b, r: a.clone(),
)
WRITES = (
    lambda t, other, r: t.add_(r.uniform(-1, 1)),
    lambda t, other, r: t.mul_(r.choice((0.5, 0.25, -1.0))),
    lambda t, other, r: t.copy_(other.flatten()[0] * 1.0),
    lambda t, other, r: t.fill_(r.uniform(-1, 1)),
    lambda t, other, r: t.zero_(),
)


def run(seed: int, round_: int, device: str, same_wiring: bool) -> list[torch.Tensor]:
    """Run one round of a program and return all that it read and holds at the end.

    `shape` decides the program: equal in all rounds, or only in every other one. `values` decides numbers and offsets.
    """
    shape = random.Random(seed * 1000 + (0 if same_wiring else round_ % 2))
    values = random.Random(seed * 1000 + 500 + round_)
    torch.manual_seed(seed + round_)
    pool = [torch.randn(SIZE, SIZE, dtype=torch.float64).to(device) for _ in range(3)]
    read = []
    for _ in range(STATEMENTS):
        kind = shape.random()
        a, b = shape.choice(pool), shape.choice(pool)
        if kind < 0.55:
            views = shape.choice(VIEWS), shape.choice(VIEWS)
            pool.append(shape.choice(OPS)(views[0](a, values), views[1](b, values), values))
        elif kind < 0.9:
            target = a if a.is_contiguous() else a.contiguous()
            shape.choice(WRITES)(shape.choice(WRITTEN)(target, values), b, values)
            pool.append(target)
        elif kind < 0.95:
            read.append(a.sum().cpu())
        else:
            with pytest.raises(RuntimeError):
                a @ torch.ones(SIZE + 1, SIZE, dtype=torch.float64, device=device)
        if len(pool) > 6:
            del pool[shape.randrange(len(pool))]
    return read + [t.cpu() for t in pool]


@pytest.mark.parametrize("chunk", range(10))
@pytest.mark.parametrize("same_wiring", [True, False])
def test_random_programs_equal_the_cpu(chunk, same_wiring):
    for seed in range(chunk * PROGRAMS // 10, (chunk + 1) * PROGRAMS // 10):
        for round_ in range(ROUNDS):
            wanted = run(seed, round_, "cpu", same_wiring)
            got = run(seed, round_, "moai", same_wiring)
            for n, (a, b) in enumerate(zip(got, wanted, strict=True)):
                message = f"seed {seed}, round {round_}, same_wiring {same_wiring}: value {n}"
                torch.testing.assert_close(
                    a, b, rtol=1e-12, atol=1e-12, equal_nan=True, msg=lambda m, w=message: f"{w}\n{m}"
                )


def test_equal_ops_wired_otherwise_are_other_traces():
    x, y = torch.tensor(2.0, device="moai"), torch.tensor(5.0, device="moai")
    for _ in range(3):
        assert ((x - y) * x).item() == -6 and ((x - y) * y).item() == -15 and ((y - x) * x).item() == 6


def test_numbers_and_offsets_do_not_make_traces():
    import moai

    data = torch.arange(64.0, device="moai")
    for i in range(20):
        assert (data[i : i + 4] * (i + 0.5) + i).sum().item() == pytest.approx(
            sum((k * (i + 0.5) + i) for k in range(i, i + 4))
        )
        if i == 3:
            before = moai.stats()
    after = moai.stats()
    assert (after["traces"], after["compiles"]) == (before["traces"], before["compiles"])
