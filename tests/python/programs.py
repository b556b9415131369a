"""Random programs of ops, views, writes through views, gradients, reads and mistakes, that run the same on any device.

What a program does is drawn statement by statement from its seed, so two variants of a program differ in one statement only:
the same ops wired otherwise, with another view or another static argument. Numbers, offsets of views and rows are drawn from
the round, and a program keeps tensors from one round to the next, as a model keeps its weights.

    check(7)                                # raises where moai differs from the CPU
    python tests/python/programs.py 7       # the same, leaves out what is not needed for it to differ, and prints what is left
"""

from __future__ import annotations

import copy
import random
import re
import sys
import threading
from collections.abc import Callable, Collection

import torch
import torch.nn.functional as F
from scenarios import assert_same

Tensor = torch.Tensor
Draw = random.Random

STATEMENTS = 16
ROUNDS = tuple(enumerate((0, 0, 1, 0, 1, 2, 1, 0)))  # and which variant runs then
MOST_TENSORS = 10
MOST_ELEMENTS = 200


# What a statement may do. Each takes two draws: `s` decides what a trace is known by, `v` what are numbers of it.


def offset(v: Draw, room: int) -> int:
    return v.randint(0, max(room, 0))


def select(t: Tensor, s: Draw, v: Draw) -> Tensor:
    dim = s.randrange(t.dim())
    return t.select(dim, v.randrange(t.size(dim)))


def narrow(t: Tensor, s: Draw, v: Draw) -> Tensor:
    dim = s.randrange(t.dim())
    length = s.randint(1, t.size(dim))
    return t.narrow(dim, offset(v, t.size(dim) - length), length)


def stepped(t: Tensor, s: Draw, v: Draw) -> Tensor:
    dim, step = s.randrange(t.dim()), s.randint(1, 3)
    start = offset(v, min(1, t.size(dim) - 1))
    length = (t.size(dim) - 1 + step) // step  # of either start
    index = [slice(None)] * t.dim()
    index[dim] = slice(start, start + length * step, step)
    taken = t[tuple(index)]
    return taken.narrow(dim, 0, min(taken.size(dim), max((t.size(dim) - 1) // step, 1)))


def as_strided(t: Tensor, s: Draw, v: Draw) -> Tensor:
    sizes = [s.randint(1, 3) for _ in range(s.randint(1, 2))]
    strides = [s.choice((0, 1, 1, 2, 3)) for _ in sizes]
    extent = sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True)) + 1
    room = t.untyped_storage().nbytes() // t.element_size() - extent
    return t.as_strided(sizes, strides, offset(v, min(room, 3))) if room >= 0 else t


VIEWS: dict[str, tuple[int, Callable[[Tensor, Draw, Draw], Tensor]]] = {  # by the least number of dims
    "itself": (0, lambda t, s, v: t),
    "select": (1, select),
    "narrow": (1, narrow),
    "stepped": (1, stepped),
    "as_strided": (0, as_strided),
    "permute": (2, lambda t, s, v: t.permute(s.sample(range(t.dim()), t.dim()))),
    "diagonal": (2, lambda t, s, v: t.diagonal(s.choice((0, 0, 1, -1)))),
    "flatten": (2, lambda t, s, v: t.flatten(s.randrange(2))),
    "unsqueeze": (0, lambda t, s, v: t.unsqueeze(s.randint(0, t.dim()))),
    "squeeze": (1, lambda t, s, v: t.squeeze()),
    "expand": (0, lambda t, s, v: t.expand(s.randint(1, 3), *t.shape)),
    "unfold": (1, lambda t, s, v: t.unfold(0, s.randint(1, t.size(0)), s.randint(1, 2))),
    "movedim": (2, lambda t, s, v: t.movedim(0, -1)),
    "halves": (1, lambda t, s, v: t.chunk(2, s.randrange(t.dim()))[-1]),
    "reshape": (1, lambda t, s, v: t.reshape(s.choice(((-1,), (1, -1), (-1, 1))))),
    "detach": (0, lambda t, s, v: t.detach()),
    "alias": (0, lambda t, s, v: t.view_as(t)),
    "bits": (0, lambda t, s, v: t.view(torch.int64) if t.dtype == torch.float64 else t),
}


def number(v: Draw) -> float:
    return v.choice((0.5, 1.0, 0.0, -1.0, v.uniform(-1, 1)))


def rows(t: Tensor, s: Draw, v: Draw) -> Tensor:
    """Indices of the first dimension, made on the host as a sampler makes them."""
    count = s.randint(1, 4)
    return torch.tensor([v.randrange(t.size(0)) for _ in range(count)]).to(t.device)


UNARY: dict[str, tuple[int, Callable[[Tensor, Draw, Draw], Tensor]]] = {
    "tanh": (0, lambda t, s, v: t.double().tanh()),
    "neg": (0, lambda t, s, v: -t.double()),
    "scale": (0, lambda t, s, v: t * number(v)),
    "shift": (0, lambda t, s, v: t + v.randint(-3, 3)),
    "cast": (0, lambda t, s, v: t.to(s.choice((torch.float64, torch.float32, torch.int64)))),
    "sum": (0, lambda t, s, v: t.sum()),
    "sum_dim": (1, lambda t, s, v: t.sum(s.randrange(t.dim()), keepdim=s.random() < 0.5)),
    "mean": (1, lambda t, s, v: t.double().mean(s.randrange(t.dim()), keepdim=True)),
    "softmax": (1, lambda t, s, v: t.double().softmax(s.randrange(t.dim()))),
    "cumsum": (1, lambda t, s, v: t.double().cumsum(s.randrange(t.dim())) / 4),
    "amax": (1, lambda t, s, v: t.amax(s.randrange(t.dim()))),
    "sort": (1, lambda t, s, v: t.sort(s.randrange(t.dim())).values),
    "clone": (0, lambda t, s, v: t.clone()),
    "contiguous": (0, lambda t, s, v: t.contiguous()),
    "flip": (1, lambda t, s, v: t.flip(s.randrange(t.dim()))),
    "roll": (1, lambda t, s, v: t.roll(s.randint(1, 2), 0)),
    "pad": (1, lambda t, s, v: F.pad(t, (s.randint(0, 2), s.randint(0, 2)), value=number(v))),
    "repeat": (1, lambda t, s, v: t.repeat(*[s.randint(1, 2) for _ in t.shape])),
    "clamp": (0, lambda t, s, v: t.clamp(-1, number(v) + 1)),
    "rows": (1, lambda t, s, v: t[rows(t, s, v)]),
    "index_select": (1, lambda t, s, v: t.index_select(0, rows(t, s, v))),
    "tril": (2, lambda t, s, v: t.tril(s.randint(-1, 1))),
    "masked_fill": (0, lambda t, s, v: t.masked_fill(t > 0, v.randint(-2, 2))),
    "zeros_like": (0, lambda t, s, v: torch.zeros_like(t)),
    "full_like": (0, lambda t, s, v: torch.full_like(t, v.randint(-2, 2))),
    "new_ones": (0, lambda t, s, v: t.new_ones(s.randint(1, 4), s.randint(1, 4))),
    "arange": (1, lambda t, s, v: torch.arange(t.size(0), device=t.device) * v.randint(1, 3)),
    "one_layer": (1, lambda t, s, v: F.layer_norm(t.double(), t.shape[-1:])),
    "negated": (0, lambda t, s, v: torch.complex(t.double(), t.double()).conj().imag),
    "deepcopy": (0, lambda t, s, v: copy.deepcopy(t.detach())),
    "nonzero": (1, lambda t, s, v: t.nonzero()[:5]),
    "masked_select": (1, lambda t, s, v: t[t > 0][:6]),
}


def fit(t: Tensor, like: Tensor, s: Draw) -> Tensor:
    """`t` in a shape that broadcasts to `like`'s: all of it, one number, or a row."""
    kind = s.randrange(4)
    if kind == 0:
        return t.reshape(-1)[s.randrange(t.numel())]
    shape = like.shape[-1:] if kind == 1 else like.shape
    n = shape.numel()
    return t.reshape(-1).repeat(-(-n // t.numel()))[:n].view(shape)


BINARY: dict[str, Callable[[Tensor, Tensor, Draw, Draw], Tensor]] = {
    "add": lambda a, b, s, v: a + b,
    "sub": lambda a, b, s, v: torch.sub(a.double(), b, alpha=number(v)),
    "mul": lambda a, b, s, v: a * b,
    "maximum": lambda a, b, s, v: torch.maximum(a, b),
    "where": lambda a, b, s, v: torch.where(a.double() > b.double(), a.double(), b.double()),
    "lerp": lambda a, b, s, v: torch.lerp(a.double(), b.double(), number(v)),
    "addcmul": lambda a, b, s, v: torch.addcmul(a.double(), b.double(), a.double(), value=number(v)),
    "equal": lambda a, b, s, v: (a == b).long(),
    "matmul": lambda a, b, s, v: (
        a.double().tanh().flatten(1) @ b.double().tanh().flatten(1).mT
        if min(a.dim(), b.dim()) > 1
        else a.double() @ b.double()
    ),
    "outer": lambda a, b, s, v: torch.outer(a.flatten()[:4], b.flatten()[:4]),
    "cat": lambda a, b, s, v: torch.cat([a.flatten(), b.flatten(), a.flatten()]),
    "stack": lambda a, b, s, v: torch.stack([a, b.expand(a.shape)], s.randint(0, 1)),
    "addmm": lambda a, b, s, v: torch.addmm(
        b.sum().double(), (c := a.double().flatten()[None].tanh()), c.t(), beta=number(v), alpha=number(v)
    ),
    "out": lambda a, b, s, v: torch.add(
        a.double(), b.double(), out=torch.empty(0, dtype=torch.float64, device=a.device)
    ),
}
WRITES: dict[str, Callable[[Tensor, Tensor, Draw, Draw], object]] = {
    "add_": lambda t, o, s, v: t.add_(o),
    "add_number": lambda t, o, s, v: t.add_(v.randint(-2, 2)),
    "mul_": lambda t, o, s, v: t.mul_(v.choice((-1, 0, 1))),
    "sub_alpha": lambda t, o, s, v: t.sub_(o, alpha=v.randint(-1, 2)),
    "copy_": lambda t, o, s, v: t.copy_(o),
    "copy_host": lambda t, o, s, v: t.copy_(torch.full((), v.randint(-3, 3))),
    "copy_whole_host": lambda t, o, s, v: t.copy_(torch.full(t.shape, v.randint(-3, 3), dtype=t.dtype)),
    "fill_": lambda t, o, s, v: t.fill_(v.randint(-3, 3)),
    "fill_tensor": lambda t, o, s, v: t.fill_(o.flatten()[0]),
    "zero_": lambda t, o, s, v: t.zero_(),
    "clamp_": lambda t, o, s, v: t.clamp_(-1, 1),
    "set_item": lambda t, o, s, v: t.__setitem__(v.randrange(t.size(0)), v.randint(-3, 3)),
    "set_rows": lambda t, o, s, v: t.__setitem__(rows(t, s, v), v.randint(-3, 3)),
    "set_mask": lambda t, o, s, v: t.__setitem__(t > 0, v.randint(-3, 3)),
    "index_add_": lambda t, o, s, v: t.index_add_(0, rows(t, Draw(1), v)[:1], t.narrow(0, 0, 1) * 2),
    "masked_fill_": lambda t, o, s, v: t.masked_fill_(o > 0, v.randint(-2, 2)),
    "swap": lambda t, o, s, v: t.copy_(t.flip(0)),
    "shifted": lambda t, o, s, v: t[1:].copy_(t[:-1].clone()),
    "out": lambda t, o, s, v: torch.add(t, o.expand(t.shape), out=t),
    "foreach": lambda t, o, s, v: torch._foreach_add_([t, t.detach().clone()], v.randint(1, 2)),
    "addcmul_": lambda t, o, s, v: t.addcmul_(o, o, value=v.randint(-1, 1)),
    "relu_": lambda t, o, s, v: F.relu_(t),
    "transpose_": lambda t, o, s, v: t.detach().t_().add_(1),
    "set_": lambda t, o, s, v: torch.empty(0, dtype=t.dtype, device=t.device).set_(t).add_(v.randint(-1, 1)),
    "data": lambda t, o, s, v: setattr(c := o.to(t.dtype).clone(), "data", t) or c.mul_(v.randint(0, 2)),
    "optimizer": lambda t, o, s, v: step(t, o, v),
}
READS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda t: t.sum().item(),
    "tolist": lambda t: t.tolist(),
    "cpu": lambda t: t.cpu().clone(),
    "numpy": lambda t: t.detach().cpu().resolve_neg().numpy().copy(),
    "bool": lambda t: bool((t > 0).any()),
    "length": lambda t: len(t.nonzero()),
    "repr": lambda t: "".join(repr(t).split()).replace(",device='moai:0'", ""),
    "format": lambda t: f"{t.flatten()[0]:.3f}",
}
MISTAKES: dict[str, Callable[[Tensor, Draw], object]] = {
    "matmul": lambda t, s: torch.bmm(t, t[None]),
    "view": lambda t, s: t.view(7, 11),
    "add": lambda t, s: (
        t.flatten() + torch.ones(t.numel() + 1 + s.randint(1, 2), device=t.device).expand(2, -1)[:, :]
    ),
    "bmm": lambda t, s: torch.bmm(t.double(), t.double()),
    "cat": lambda t, s: torch.cat([t[None], t[None, None]]),
    "write": lambda t, s: t.copy_(torch.zeros(13, 17, dtype=t.dtype, device=t.device)),
    "dim": lambda t, s: t.sum(9),
    "script": lambda t, s: 1 // 0,
}
LATE_MISTAKES: dict[str, Callable[[Tensor, Draw], object]] = {
    "index": lambda t, s: late(lambda: t.index_select(0, torch.tensor([99]).to(t.device))),
    "embedding": lambda t, s: late(lambda: F.embedding(torch.tensor([0, 99]).to(t.device), t.double())),
}
LEAF_OPS: dict[str, Callable[[Tensor, Tensor, Draw, Draw], Tensor]] = {
    "mul": lambda x, c, s, v: x * c.double().tanh(),
    "tanh": lambda x, c, s, v: x.tanh(),
    "square": lambda x, c, s, v: x * x,
    "softmax": lambda x, c, s, v: x.flatten().softmax(0),
    "view": lambda x, c, s, v: x.reshape(-1)[offset(v, x.numel() - 1) :],
    "sum": lambda x, c, s, v: x.sum(0, keepdim=True) if x.dim() else x.exp(),
    "scale": lambda x, c, s, v: x * number(v),
    "in_place": lambda x, c, s, v: x.clone().mul_(number(v)),
    "in_place_on_saved": lambda x, c, s, v: x.sigmoid().mul_(
        2
    ),  # refused by backward: sigmoid keeps its result
    "write_view": lambda x, c, s, v: write_view(x, v),
    "cat": lambda x, c, s, v: torch.cat([x.flatten(), x.flatten()]),
    "detach": lambda x, c, s, v: x + x.detach(),
}


def step(t: Tensor, o: Tensor, v: Draw) -> None:
    """An optimizer's step on `t`'s memory."""
    if t.is_neg():
        return  # torch has no _foreach_ ops for such
    weight = t.detach().requires_grad_()
    optimizer = torch.optim.SGD([weight], lr=v.uniform(0, 1), weight_decay=0.1)
    (weight * o.tanh()).sum().backward()
    optimizer.step()


def late(mistake: Callable[[], Tensor]) -> None:
    """A mistake that only the data tells, read at once. What is recorded before it runs before it, since it would fail with it."""
    torch.accelerator.synchronize()
    mistake().cpu()


def write_view(x: Tensor, v: Draw) -> Tensor:
    y = x.reshape(-1) * 1
    y[v.randrange(y.numel())] = v.uniform(-1, 1)
    return y


def overlaps_itself(t: Tensor) -> bool:
    extent = t.untyped_storage().nbytes() // t.element_size()
    places = torch.arange(extent).as_strided(t.shape, t.stride(), t.storage_offset())
    return places.unique().numel() != t.numel()


# What mistakes raise; anything else is ours.
EXPECTED = (RuntimeError, IndexError, ValueError, TypeError, ZeroDivisionError, NotImplementedError)


def without_device(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}".split("\n")[0].split(" (while moai ran")[0]
    return re.sub(r"moai:0|moai|cpu|torch\.(?=\w+Tensor)|(?<=\w)(Type|Tensor)\b", "", text)


class Program:
    """A program on one device and what it keeps between rounds.

    * `only`: the statements that run; all of them without.
    * `alone`: no other program runs meanwhile. One that fails late fails what others have queued, too.
    """

    def __init__(
        self, seed: int, device: str, only: Collection[int] = range(STATEMENTS), alone: bool = True
    ) -> None:
        self.seed = seed
        self.mistakes = MISTAKES | LATE_MISTAKES if alone else MISTAKES
        self.device = device
        self.only = only
        self.said: list[str] = []  # what ran, in words
        draw = Draw(f"{seed} kept")
        self.changed_statement = draw.randrange(STATEMENTS)
        # Of one width, so that a part of one storage looks like the whole of another.
        n = draw.randint(2, 4)
        self.kept = [self.made(draw, shape) for shape in ([n], [n, n], [n, n], [2, n, n])]

    def made(self, v: Draw, shape: list[int], dtype: torch.dtype = torch.float64) -> Tensor:
        values = torch.randn(
            *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(v.randrange(1 << 30))
        )
        return (values * 2).to(dtype).to(self.device)

    def run(self, variant: int, round_: int) -> list[object]:
        """Run one round; return all that it read, all the mistakes it made and the values that it ends with."""
        pool = list(self.kept)
        seen: list[object] = []
        v = Draw(f"{self.seed} values {round_}")
        self.say(f"round {round_}, variant {variant}")
        for n in range(STATEMENTS):
            changed = f" variant {variant}" if variant and n == self.changed_statement else ""
            s = Draw(f"{self.seed} statement {n}{changed}")
            # Values are drawn anew for each statement, so that a mistake on one device does not shift the rest.
            values = Draw(v.randrange(1 << 30))
            if n not in self.only:
                continue
            self.say(f"  {n}:")
            self.attempt(pool, seen, s, values)
            while len(pool) > MOST_TENSORS:
                del pool[s.randrange(len(self.kept), len(pool))]
        return seen + [t.detach().cpu().clone() for t in pool]

    def attempt(self, pool: list[Tensor], seen: list[object], s: Draw, v: Draw) -> None:
        try:
            self.statement(pool, seen, s, v)
        except EXPECTED as error:
            seen.append(without_device(error))
            self.say(f"raises {type(error).__name__}")

    def say(self, words: str) -> None:
        if words.startswith(("round", "  ")):
            self.said.append(words)
        else:
            self.said[-1] += " " + words

    def pick(self, table: dict, s: Draw, dims: int | None = None) -> Callable:
        """One of a table's functions, of those that take a tensor of so many dims."""
        name = s.choice([name for name, entry in table.items() if dims is None or entry[0] <= dims])
        self.say(name)
        return table[name] if dims is None else table[name][1]

    def view(self, pool: list[Tensor], s: Draw, v: Draw) -> Tensor:
        n = s.randrange(len(pool))
        t = pool[n]
        self.say(f"#{n}")
        for _ in range(s.choice((0, 0, 1, 1, 2))):
            if t.numel() == 0:
                return t
            t = self.pick(VIEWS, s, t.dim())(t, s, v)
        self.say(f"{list(t.shape)}")
        return t

    def statement(self, pool: list[Tensor], seen: list[object], s: Draw, v: Draw) -> None:
        kind = s.random()
        a, b = self.view(pool, s, v), self.view(pool, s, v)
        if s.random() < 0.9 and b.numel() > 0:
            b = fit(b, a, s)
        made = None
        if kind < 0.1:
            made = self.made(
                v,
                [s.randint(1, 4) for _ in range(s.randint(1, 3))],
                s.choice((torch.float64, torch.int64, torch.float32)),
            )
        elif kind < 0.3:
            made = self.pick(UNARY, s, a.dim())(a, s, v)
        elif kind < 0.5:
            made = self.pick(BINARY, s)(a, b, s, v)
        elif kind < 0.73:
            # Eager refuses a write where two elements are one; what it reads must not overlap with it either.
            if overlaps_itself(a):
                a = a.clone()
            if b.untyped_storage().data_ptr() == a.untyped_storage().data_ptr():
                b = b.clone()
            self.pick(WRITES, s)(a, b, s, v)
        elif kind < 0.78:
            seen.append(self.pick(READS, s)(a))
        elif kind < 0.82:
            self.pick(self.mistakes, s)(a, s)
        elif kind < 0.92:
            made = self.gradient(a, b, s, v)
        elif kind < 0.97:
            self.in_a_thread(pool, seen, s, v)
        elif len(pool) > len(self.kept):
            del pool[s.randrange(len(self.kept), len(pool))]
        if made is not None and 0 < made.numel() <= MOST_ELEMENTS:
            self.say(f"-> #{len(pool)}")
            pool.append(made)

    def gradient(self, a: Tensor, b: Tensor, s: Draw, v: Draw) -> Tensor:
        leaf = a.detach().double().requires_grad_()
        x: Tensor = leaf
        for _ in range(s.randint(1, 4)):
            x = self.pick(LEAF_OPS, s)(x, b, s, v)
        if s.random() < 0.3:
            leaf.register_hook(lambda gradient: gradient * 2)
        if s.random() < 0.2:
            (gradient,) = torch.autograd.grad(x.square().sum(), leaf, create_graph=True)
            x = gradient.tanh()
        x.sum().backward()
        assert leaf.grad is not None
        return leaf.grad

    def in_a_thread(self, pool: list[Tensor], seen: list[object], s: Draw, v: Draw) -> None:
        """Another thread goes on with what this one has recorded, and this one then with what that one has."""
        self.say("in a thread:")
        thread = threading.Thread(target=self.attempt, args=(pool, seen, s, v))
        thread.start()
        thread.join()


def check(seed: int, only: Collection[int] = range(STATEMENTS), rounds: Collection = ROUNDS) -> Program:
    """Run a program on the CPU and on moai. Raises AssertionError at the first value that differs; returns what ran on the CPU."""
    host, device = Program(seed, "cpu", only), Program(seed, "moai", only)
    for round_, variant in rounds:
        wanted, got = host.run(variant, round_), device.run(variant, round_)
        assert_same(got, wanted, f"seed {seed}, round {round_}, variant {variant}")
    return host


def shrink(seed: int, differs: Callable[[list[int], list], bool]) -> tuple[list[int], list]:
    """The statements and rounds that are left when each that `differs` does not need is left out."""
    only, rounds = list(range(STATEMENTS)), list(ROUNDS)
    changed = True
    while changed:
        changed = False
        for kept in (rounds, only):
            for entry in reversed(list(kept)):
                at = kept.index(entry)
                del kept[at]
                if kept and differs(only, rounds):
                    changed = True
                else:
                    kept.insert(at, entry)
    return only, rounds


def explain(seed: int) -> str:
    """What makes the program of a seed differ from the CPU, as little as is left of it; empty when it does not."""

    def error(only: Collection[int], rounds: Collection) -> str:
        try:
            check(seed, only, rounds)
        except Exception as error:
            return str(error) or type(error).__name__
        return ""

    if not error(range(STATEMENTS), ROUNDS):
        return ""
    only, rounds = shrink(seed, lambda only, rounds: bool(error(only, rounds)))
    host = Program(seed, "cpu", only)
    for round_, variant in rounds:
        host.run(variant, round_)
    return "\n".join([f"check({seed}, only={only}, rounds={rounds})", *host.said, error(only, rounds)])


if __name__ == "__main__":
    import moai  # noqa: F401

    torch.set_num_threads(1)
    for argument in sys.argv[1:]:
        print(explain(int(argument)) or f"seed {argument}: as on the CPU")
