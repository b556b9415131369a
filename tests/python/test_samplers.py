"""Parts of random numbers: each device draws, to the bit, what one device would draw at the same places."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import device_graphs
import local_graphs
import moai
import pytest
import torch
from moai import _C

A = torch.ops.aten
F64, F32, I64 = torch.float64, torch.float32, torch.int64


def rand(*sizes: int, dtype: torch.dtype = F64) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.rand(sizes, dtype=dtype)


# Each sampler that can be split: what is recorded, and on what.
SPLIT: dict[str, tuple[Callable, list[torch.Tensor]]] = {
    "uniform_": (lambda x: x.uniform_(2, 3), [rand(7, 5)]),
    "uniform_ f32": (lambda x: x.uniform_(2, 3), [rand(4, 9, dtype=F32)]),
    "uniform_ bf16": (lambda x: x.uniform_(), [rand(4, 9, dtype=torch.bfloat16)]),
    "uniform_ complex": (lambda x: x.uniform_(), [rand(4, 5, dtype=torch.complex128)]),
    "normal_": (lambda x: x.normal_(1, 2), [rand(7, 5)]),
    "normal_ f16": (lambda x: x.normal_(), [rand(5, 6, dtype=torch.float16)]),
    "normal_ complex": (lambda x: x.normal_(), [rand(4, 5, dtype=torch.complex128)]),
    "normal_ three dims": (lambda x: x.normal_(), [rand(3, 4, 5)]),
    "normal_ transposed": (lambda x: x.normal_(), [rand(5, 7).t()]),
    "normal_ channels last": (
        lambda x: x.normal_(),
        [rand(3, 4, 3, 3).contiguous(memory_format=torch.channels_last)],
    ),
    "normal_ one row": (lambda x: x.normal_(), [rand(1, 17)]),
    "bernoulli": (lambda x: x.bernoulli(), [rand(7, 5)]),
    "bernoulli transposed": (lambda x: x.bernoulli(), [rand(5, 7).t()]),
    "bernoulli.p": (lambda x: A.bernoulli.p(x, 0.3), [rand(7, 5)]),
    "bernoulli_.float": (lambda x: x.bernoulli_(0.3), [rand(7, 5)]),
    "bernoulli_.float bool": (lambda x: x.bernoulli_(0.3), [rand(7, 5) > 2]),
    "bernoulli_.Tensor": (lambda x, p: x.bernoulli_(p), [rand(7, 5), rand(7, 5)]),
    "bernoulli_.Tensor broadcast": (lambda x, p: x.bernoulli_(p), [rand(7, 5), rand(7, 1)]),
    "random_": (lambda x: x.random_(), [rand(7, 5)]),
    "random_.to": (lambda x: x.random_(9), [rand(7, 5).to(I64)]),
    "random_.from": (lambda x: x.random_(-3, 9), [rand(7, 5).to(I64)]),
    "exponential_": (lambda x: x.exponential_(2), [rand(7, 5)]),
    "geometric_": (lambda x: x.geometric_(0.3), [rand(7, 5)]),
    "cauchy_": (lambda x: x.cauchy_(), [rand(7, 5)]),
    "log_normal_": (lambda x: x.log_normal_(), [rand(7, 5)]),
    "native_dropout": (lambda x: torch.native_dropout(x, 0.3, True), [rand(7, 5)]),
    "native_dropout transposed": (lambda x: torch.native_dropout(x, 0.3, True), [rand(3, 4, 5).transpose(0, 2)]),
    "normal.Tensor_float": (lambda m: torch.normal(m, 2.0), [rand(7, 5)]),
    "normal.float_Tensor": (lambda s: torch.normal(1.0, s), [rand(7, 5)]),
    "normal.Tensor_Tensor": (lambda m, s: torch.normal(m, s), [rand(7, 1), rand(5)]),
    "rrelu_with_noise": (
        lambda x, n: A.rrelu_with_noise(x, n, 0.1, 0.3, True),
        [rand(7, 5) - 0.5, torch.zeros(7, 5, dtype=F64)],
    ),
    "rrelu_with_noise_": (
        lambda x, n: A.rrelu_with_noise_(x, n, 0.1, 0.3, True),
        [rand(7, 5) - 0.5, torch.zeros(7, 5, dtype=F64)],
    ),
    # More than one thread draws, and begins within a run.
    "normal_ large": (lambda x: x.normal_(), [rand(5, 34, 101)]),
    "native_dropout large": (lambda x: torch.native_dropout(x, 0.5, True), [rand(3, 99, 73)]),
}  # fmt: skip

# Samplers that draw a varying number of times, or in an order that depends on everything.
WHOLE: dict[str, tuple[Callable, list[torch.Tensor]]] = {
    "multinomial": (lambda x: x.multinomial(3), [rand(6, 5)]),
    "poisson": (lambda x: torch.poisson(x), [rand(6, 5)]),
    "binomial": (lambda n, p: torch.binomial(n, p), [rand(6, 5).mul(9).round(), rand(6, 5)]),
    "_standard_gamma": (lambda x: torch._standard_gamma(x), [rand(6, 5)]),
    "_sample_dirichlet": (lambda x: torch._sample_dirichlet(x), [rand(6, 5)]),
    "randperm.generator_out": (lambda x: torch.randperm(6, out=x), [torch.zeros(6, dtype=I64)]),
}


def recorded(make: Callable, inputs: list[torch.Tensor]) -> tuple[str, list]:
    """The graph that `make` records, and the numbers it was recorded with."""
    torch.manual_seed(7)
    with moai.dry_run():
        on_device = [x.to("moai") for x in inputs]
        kept = make(*on_device)  # noqa: F841  results that nobody holds are no outputs
        return _C.dry_step(), _C.dry_numbers()


def assert_same_numbers(plan: dict, text: str, inputs: list[torch.Tensor], numbers: list) -> None:
    by_device = device_graphs.run_devices(plan, inputs, numbers)
    for o, whole in enumerate(local_graphs.run_graph(text, inputs, numbers)):
        got = device_graphs.joined([outputs[o] for outputs in by_device], plan["outputs"][o], whole)
        assert torch.equal(got, whole), plan["graphs"][-1]
        assert bool((whole != whole.flatten()[0]).any()), "every number is the same"


@pytest.mark.parametrize("name", SPLIT)
def test_parts_draw_what_the_whole_draws(name: str) -> None:
    text, numbers = recorded(*SPLIT[name])
    inputs = SPLIT[name][1]
    splits = 0
    for mesh in ([2], [3], [4], [2, 2], [2, 3]):
        for counts, plan in _C.local_graphs_of_options(text, mesh):
            assert_same_numbers(plan, text, inputs, numbers)
            splits += not all(split.endswith(" -") for split in counts)
    assert splits >= 5, "the sampler is hardly split"


# What is drawn has dims of several atoms, for it is a reshape of the input or of the result.
NESTED: dict[str, tuple[Callable, list[torch.Tensor]]] = {
    "dropout of a reshape": (lambda x: torch.native_dropout(x.reshape(12, 10), 0.3, True), [rand(3, 4, 5, 2)]),
    "normal_ of a reshape": (lambda x: x.view(12, 10).normal_(), [rand(3, 4, 5, 2)]),
    "normal_ of rows turned": (lambda x: x.permute(2, 0, 1).normal_(), [rand(3, 4, 5)]),
    "heads": (
        lambda x: torch.native_dropout(x.permute(0, 2, 1, 3).reshape(4, 3, 10), 0.3, True),
        [rand(4, 5, 3, 2)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NESTED)
def test_parts_of_nested_dims_draw_what_the_whole_draws(name: str) -> None:
    text, numbers = recorded(*NESTED[name])
    inputs = NESTED[name][1]
    rank = inputs[0].dim()
    for mesh in ([2], [3], [2, 2]):
        for count in (1, 2):
            for dims in itertools.combinations(range(rank), count):
                plan = _C.greedy_local_graphs(text, mesh, [(0, d) for d in dims], False, False)
                assert_same_numbers(plan, text, inputs, numbers)


def test_a_dim_within_a_dim_is_drawn_in_runs() -> None:
    """The case that one range of indices cannot say: every device has a piece of each row."""
    text, numbers = recorded(lambda x: torch.native_dropout(x.reshape(12), 0.3, True), [rand(3, 4)])
    plan = _C.greedy_local_graphs(text, [2], [(0, 1)], False, False)
    assert all(f"[3,0,3,4,{start},2]" in graph for start, graph in zip((0, 2), plan["graphs"], strict=True))


@pytest.mark.parametrize("name", WHOLE)
def test_what_cannot_be_drawn_in_parts_is_whole(name: str) -> None:
    text, numbers = recorded(*WHOLE[name])
    inputs = WHOLE[name][1]
    plans = _C.local_graphs_of_options(text, [2])
    assert len(plans) == 1
    assert_same_numbers(plans[0][1], text, inputs, numbers)


def test_a_part_of_what_is_drawn_whole_is_refused() -> None:
    text, numbers = recorded(*WHOLE["multinomial"])
    (line,) = [one for one in text.splitlines() if "multinomial" in one]
    placed = text.replace(line, line[:-1] + ", [6,0,3,3,0,3])")
    with pytest.raises(RuntimeError, match="draws no parts"):
        _C.run_node(placed, 0, [rand(3, 5)], numbers)


def test_a_part_of_other_sizes_is_refused() -> None:
    text, numbers = recorded(*SPLIT["normal_"])
    (line,) = [one for one in text.splitlines() if "normal_" in one]
    for places, what in (
        ("[7,0,3,5,0,5]", "other sizes"),
        ("[7,5,3]", "not within"),
        ("[7,0]", "three numbers"),
    ):
        with pytest.raises(RuntimeError, match=what):
            _C.run_node(text.replace(line, f"{line[:-1]}, {places})"), 0, [rand(2, 5)], numbers)


def test_every_sampler_is_split_or_known_to_be_whole() -> None:
    names = {name.split(" ")[0] for name in [*SPLIT, *WHOLE]}
    for name in _C.samplers():
        op = name.removeprefix("aten.")
        base = op.removesuffix("_out").removesuffix(".out")
        assert op in names or base in names or op == "randperm.out", f"no row for {name}"
