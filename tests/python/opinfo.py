"""Conformity by torch's op database (torch.testing._internal): is each op equal to the CPU's, and recorded?

For each op and dtype several samples (forward, on strided and lazily conjugated inputs, backward, in place, out=) run on moai in
one graph, nothing is read before all are recorded, and then everything is compared with what the CPU returns.

    python tests/python/opinfo.py add nn.functional.relu        # in all dtypes, with the reasons
    python tests/python/opinfo.py add:bfloat16
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import moai
import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils._pytree import tree_map

sys.path.insert(0, str(Path(__file__).parent))
from comparing import (  # noqa: E402
    Outcome,
    all_same,
    differing_error,
    equal_tensors,
    error_of,
    first_line,
    is_random,
    not_recorded,
    spread,
    tensors_in,
)
from opinfo_known import ON_CPU, TOLERANCES, UNDEFINED  # noqa: E402

DTYPES = (torch.float32, torch.float64, torch.int64, torch.bool, torch.bfloat16, torch.complex64)
MOST_SAMPLES = 6
# Samples are drawn evenly from this many: the first ones of an op are often alike.
SAMPLES_TO_CHOOSE_FROM = 60
BACKWARD_SAMPLES = 4
STRIDED_SAMPLES = 2
IN_PLACE_SAMPLES = 3
OUT_SAMPLES = 3


@dataclasses.dataclass
class Case:
    """One call of an op: ``call(sample)`` on a sample whose tensors lie on one device."""

    op: str
    dtype: str
    kind: str
    sample: object
    call: Callable
    backward: bool = False
    strided: bool = False
    conjugated: bool = False


def full_name(op) -> str:
    return f"{op.name}.{op.variant_test_name}" if op.variant_test_name else op.name


OPS = {full_name(op): op for op in op_db}


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def dtypes_of(name: str) -> list[str]:
    supported = OPS[name].supported_dtypes("cpu")
    return [name_of(d) for d in DTYPES if d in supported]


# Each (name, dtype) to check. jiterator compiles for CUDA only.
EVERYTHING = [(n, d) for n in OPS if not n.startswith("jiterator_") for d in dtypes_of(n)]


def cases_of(op, dtype: torch.dtype) -> Iterator[Case]:
    name = full_name(op)
    torch.manual_seed(0)
    with_grad = op.supports_autograd and dtype in op.supported_backward_dtypes("cpu")
    drawn = itertools.islice(op.sample_inputs("cpu", dtype, requires_grad=with_grad), SAMPLES_TO_CHOOSE_FROM)
    samples = spread(list(drawn), MOST_SAMPLES)

    def plain(s):
        return op(s.input, *s.args, **s.kwargs)

    for i, sample in enumerate(samples):
        yield Case(name, name_of(dtype), f"forward {i}", sample, plain)
    if with_grad:
        for i, sample in enumerate(spread(samples, BACKWARD_SAMPLES)):
            yield Case(name, name_of(dtype), f"backward {i}", sample, plain, backward=True)
    for i, sample in enumerate(spread(samples, STRIDED_SAMPLES)):
        yield Case(name, name_of(dtype), f"strided {i}", sample, plain, strided=True)
        if dtype.is_complex:
            yield Case(name, name_of(dtype), f"conjugated {i}", sample, plain, conjugated=True)

    in_place = op.get_inplace()
    if in_place is not None:
        fit = [s for s in samples if not s.broadcasts_input]
        for i, sample in enumerate(spread(fit, IN_PLACE_SAMPLES)):
            yield Case(
                name,
                name_of(dtype),
                f"in place {i}",
                sample,
                lambda s: in_place(s.input, *s.args, **s.kwargs),
            )
        if with_grad and op.supports_inplace_autograd:
            for i, sample in enumerate(spread(fit, IN_PLACE_SAMPLES)):
                yield Case(
                    name,
                    name_of(dtype),
                    f"in place backward {i}",
                    sample,
                    lambda s: in_place(s.input.clone(), *s.args, **s.kwargs),
                    backward=True,
                )
    if op.supports_out:
        for i, sample in enumerate(spread(samples, OUT_SAMPLES)):
            yield Case(
                name,
                name_of(dtype),
                f"out= {i}",
                sample,
                lambda s: into(op, s, lambda t: torch.full_like(t, 1)),
            )
            yield Case(
                name,
                name_of(dtype),
                f"out= resized {i}",
                sample,
                lambda s: into(op, s, lambda t: t.new_empty(0)),
            )


def into(op, sample, make: Callable):
    """The results that the call writes into `out`, which `make` makes from those that it would return."""
    with torch.no_grad():
        results = op(sample.input, *sample.args, **sample.kwargs)
    out = tree_map(lambda t: make(t) if isinstance(t, torch.Tensor) else t, results)
    op(sample.input, *sample.args, **sample.kwargs, out=out)
    return out


def on(device: str, case: Case):
    """The case's sample with copies of its tensors there, whatever the case needs of them."""
    wants_grad = case.backward
    copies: dict[int, torch.Tensor] = {}

    def move(leaf):
        if isinstance(leaf, torch.device) or (isinstance(leaf, str) and leaf == "cpu"):
            return torch.device(device)
        if not isinstance(leaf, torch.Tensor):
            return leaf
        if id(leaf) not in copies:
            there = leaf.detach().clone().to(device)
            if case.strided and leaf.layout == torch.strided:
                every_other = torch.zeros((*leaf.shape, 2), dtype=leaf.dtype, device=device)[..., 1]
                there = every_other.copy_(there)
            if case.conjugated and leaf.is_complex():
                there = there.conj().resolve_conj().conj()
            copies[id(leaf)] = there.requires_grad_(wants_grad and leaf.requires_grad)
        return copies[id(leaf)]

    sample = case.sample
    args = tuple(sample.args)
    moved = type(sample)(
        tree_map(move, sample.input),
        args=args if case.op in ON_CPU else tree_map(move, args),
        kwargs=tree_map(move, dict(sample.kwargs)),
        output_process_fn_grad=sample.output_process_fn_grad,
        broadcasts_input=sample.broadcasts_input,
    )
    return moved, list(copies.values())


@dataclasses.dataclass
class Results:
    tree: object
    inputs: list[torch.Tensor] = dataclasses.field(default_factory=list)  # as the call left them
    grads: object = None
    shares: list[tuple[int, int]] = dataclasses.field(
        default_factory=list
    )  # (result, input) over one storage


def evaluate(case: Case, device: str, seed: int) -> Results:
    sample, inputs = on(device, case)
    torch.manual_seed(seed)
    results = Results(case.call(sample), [t.detach() for t in inputs if t.layout == torch.strided])
    returned = tensors_in(results.tree)
    if all(t.layout == torch.strided for t in returned + inputs):
        storages = [t.untyped_storage()._cdata for t in inputs]
        results.shares = [
            (r, i)
            for r, t in enumerate(returned)
            for i, s in enumerate(storages)
            if t.untyped_storage()._cdata == s
        ]
    if case.backward:
        outputs = [t for t in tensors_in(case.sample.output_process_fn_grad(results.tree)) if t.requires_grad]
        wanted = [t for t in inputs if t.requires_grad]
        results.tree = tree_map(lambda t: t.detach() if isinstance(t, torch.Tensor) else t, results.tree)
        if outputs and wanted:
            generator = torch.Generator().manual_seed(1)
            directions = [
                torch.randn(t.shape, dtype=t.dtype, generator=generator).to(device) for t in outputs
            ]
            results.grads = torch.autograd.grad(outputs, wanted, directions, allow_unused=True)
    return results


PARTS = {"result": "tree", "gradient": "grads", "input": "inputs"}


def tolerance_of(case: Case) -> dict | None:
    return TOLERANCES.get(case.op) or TOLERANCES.get(f"{case.op} {case.dtype}")


def differences(case: Case, ours: Results, theirs: Results, tolerance: dict | None = None) -> Iterator[str]:
    """How the results differ, gradients and what the call left of its inputs among them: by the op's own tolerance and
    by the one that is given."""
    for what, part in PARTS.items():
        ours_, theirs_ = getattr(ours, part), getattr(theirs, part)
        own = tolerance_of(case)
        found = list(all_same(what, ours_, theirs_, own or tolerance))
        if found and own and tolerance:
            found = list(all_same(what, ours_, theirs_, tolerance))
        yield from found
    if ours.shares != theirs.shares:
        yield f"shares storages (result, input) {ours.shares}, not {theirs.shares}"


def differing_types(ours: Results, theirs: Results) -> Iterator[str]:
    """The same of results whose values are random or undefined: sizes and dtypes, and that they can be read."""
    for what, part in PARTS.items():
        got, wanted = tensors_in(getattr(ours, part)), tensors_in(getattr(theirs, part))
        if [(t.shape, t.dtype) for t in got] != [(t.shape, t.dtype) for t in wanted]:
            yield f"{what}s have other sizes or dtypes"
        for tensor in got:
            tensor.cpu()


def values_of(results: Results) -> list:
    return [results.tree, results.grads]


def check(name: str, dtype: str, tolerance: dict | None = None) -> Outcome:
    """Runs everything that the database has for an op in a dtype, on both. Torch's tolerances, unless others are given."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.perf_counter()
        outcome = Outcome(name, dtype)
        _check(OPS[name], outcome, tolerance)
        if dtype == dtypes_of(name)[0]:
            outcome.problems += errors_that_differ(OPS[name], outcome)
        outcome.seconds = time.perf_counter() - start
        return outcome


def _check(op, outcome: Outcome, tolerance: dict | None) -> None:
    pairs: list[tuple[Case, Results, Results]] = []
    expected: list[tuple[Case, Results]] = []
    refused: list[tuple[Case, Exception]] = []
    for case in cases_of(op, getattr(torch, outcome.dtype)):
        try:
            expected.append((case, evaluate(case, "cpu", seed=7)))
        except Exception as error:  # noqa: BLE001, PERF203
            refused.append((case, error))
    outcome.cases = len(expected)
    if not expected:
        outcome.problems.append("the CPU ran none of the samples")
    moai.sync()
    before = moai.stats()
    for case, theirs in expected:
        try:
            pairs.append((case, evaluate(case, "moai", seed=7), theirs))
        except Exception as error:  # noqa: BLE001
            outcome.problems.append(f"{case.kind}: {first_line(error)}")
    outcome.reasons = not_recorded(before, moai.stats())

    for case, ours, theirs in pairs:
        try:
            if outcome.name in UNDEFINED:
                found = list(differing_types(ours, theirs))
            else:
                found = list(differences(case, ours, theirs, tolerance))
                outcome.bitwise &= bool(found) or equal_tensors(values_of(ours), values_of(theirs))
            if found and is_random(lambda c=case: values_of(evaluate(c, "cpu", seed=0)), values_of(theirs)):
                outcome.random = True
                found = list(differing_types(ours, theirs))
        except Exception as error:  # noqa: BLE001
            found = [f"when read: {first_line(error)}"]
        outcome.problems += [f"{case.kind}: {f}" for f in found]
    for case, theirs in refused:
        outcome.errors += 1
        if found := differing_error(error_of(lambda c=case: evaluate(c, "moai", seed=7).tree), theirs):
            outcome.problems.append(f"{case.kind}: {found}")


def errors_that_differ(op, outcome: Outcome) -> Iterator[str]:
    """The database's wrong calls: is eager's own error raised, at the call or at the next read?"""
    torch.manual_seed(0)
    wrong = list(op.error_inputs("cpu")) if op.error_inputs_func is not None else []
    for i, error in enumerate(wrong):
        case = Case(
            outcome.name,
            outcome.dtype,
            f"error {i}",
            error.sample_input,
            lambda s: op(s.input, *s.args, **s.kwargs),
        )
        theirs = error_of(lambda c=case: c.call(on("cpu", c)[0]))
        if theirs is None:
            continue
        outcome.errors += 1
        if found := differing_error(error_of(lambda c=case: c.call(on("moai", c)[0])), theirs):
            yield f"{case.kind}: {found}"


def main(arguments: list[str]) -> None:
    for argument in arguments:
        name, _, dtype = argument.partition(":")
        for each in [dtype] if dtype else dtypes_of(name):
            print(check(name, each).report())


if __name__ == "__main__":
    main(sys.argv[1:])
