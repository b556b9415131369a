"""Conformity by torch's op database (torch.testing._internal): is each op equal to the CPU's, and recorded?

For each op several samples (forward, on strided inputs, backward, in place, out=) run on moai in one graph,
nothing is read before all are recorded, and then everything is compared with what the CPU returns.

    python tests/python/opinfo.py                 # every op, in processes of their own; writes docs/coverage.md
    python tests/python/opinfo.py add nn.functional.relu
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import sys
import time
import unittest.mock
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import moai
import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils._pytree import tree_flatten, tree_map

sys.path.insert(0, str(Path(__file__).parent))
from opinfo_known import (  # noqa: E402
    ALIASED,
    DEPENDS_ON_DATA,
    KNOWN,
    ON_CPU,
    TOLERANCES,
    UNDEFINED,
    WRITES_A_COPY,
)

MOST_SAMPLES = 6
# Samples are drawn evenly from this many: the first ones of an op are often alike.
SAMPLES_TO_CHOOSE_FROM = 60
BACKWARD_SAMPLES = 4
STRIDED_SAMPLES = 2
IN_PLACE_SAMPLES = 3
OUT_SAMPLES = 3
# A stream that repeats itself is cut, and that is no read.
FORCED_CUTS = ("host read", "op at once", "other thread")


@dataclasses.dataclass
class Case:
    """One call of an op: ``call(sample)`` on a sample whose tensors lie on one device."""

    op: str
    kind: str
    sample: object
    call: Callable
    backward: bool = False
    strided: bool = False


@dataclasses.dataclass
class Outcome:
    """What became of one op. `problems` are differences; `reasons` why it was not recorded throughout."""

    name: str
    cases: int = 0
    errors: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)
    reasons: dict[str, int] = dataclasses.field(default_factory=dict)
    random: bool = False
    strides_differ: bool = False
    seconds: float = 0.0

    @property
    def equal(self) -> bool:
        return not self.problems

    @property
    def recorded(self) -> bool:
        return not self.reasons or self.name in DEPENDS_ON_DATA


def full_name(op) -> str:
    return f"{op.name}.{op.variant_test_name}" if op.variant_test_name else op.name


OPS = {full_name(op): op for op in op_db}


def dtype_of(op) -> torch.dtype | None:
    """float32; for the few ops that have no such kernel, integers or booleans."""
    supported = op.supported_dtypes("cpu")
    return next(
        (d for d in (torch.float32, torch.int64, torch.bool, torch.complex64) if d in supported), None
    )


# jiterator compiles for CUDA only; the rest has no dtype that the CPU can show.
EVERYTHING = [n for n, op in OPS.items() if dtype_of(op) is not None and not n.startswith("jiterator_")]


def spread(items: list, most: int) -> list:
    """At most that many of them, evenly spaced, the first among them."""
    if len(items) <= most:
        return items
    return [items[i * len(items) // most] for i in range(most)]


def tensors_in(tree) -> list[torch.Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, torch.Tensor)]


def cases_of(op) -> Iterator[Case]:
    name, dtype = full_name(op), dtype_of(op)
    torch.manual_seed(0)
    with_grad = op.supports_autograd and (dtype.is_floating_point or dtype.is_complex)
    drawn = itertools.islice(op.sample_inputs("cpu", dtype, requires_grad=with_grad), SAMPLES_TO_CHOOSE_FROM)
    samples = [s for s in spread(list(drawn), MOST_SAMPLES)]

    def plain(s):
        return op(s.input, *s.args, **s.kwargs)

    for i, sample in enumerate(samples):
        yield Case(name, f"forward {i}", sample, plain)
    if with_grad:
        for i, sample in enumerate(spread(samples, BACKWARD_SAMPLES)):
            yield Case(name, f"backward {i}", sample, plain, backward=True)
    for i, sample in enumerate(spread(samples, STRIDED_SAMPLES)):
        yield Case(name, f"strided {i}", sample, plain, strided=True)

    in_place = op.get_inplace()
    if in_place is not None:
        fit = [s for s in samples if not s.broadcasts_input]
        for i, sample in enumerate(spread(fit, IN_PLACE_SAMPLES)):
            yield Case(name, f"in place {i}", sample, lambda s: in_place(s.input, *s.args, **s.kwargs))
    if op.supports_out:
        for i, sample in enumerate(spread(samples, OUT_SAMPLES)):
            yield Case(name, f"out= {i}", sample, lambda s: into(op, s, lambda t: torch.full_like(t, 1)))
            yield Case(name, f"out= resized {i}", sample, lambda s: into(op, s, lambda t: t.new_empty(0)))


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
    grads: object = None
    shares: list[tuple[int, int]] = dataclasses.field(
        default_factory=list
    )  # (result, input) over one storage


def evaluate(case: Case, device: str, seed: int) -> Results:
    sample, inputs = on(device, case)
    torch.manual_seed(seed)
    results = Results(case.call(sample))
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


def same(ours, theirs, tolerance: dict | None = None) -> str:
    """How they differ, in a line; empty when they do not."""
    if isinstance(theirs, torch.Tensor):
        if not isinstance(ours, torch.Tensor):
            return f"is a {type(ours).__name__}, not a tensor"
        if ours.layout != torch.strided or theirs.layout != torch.strided:
            return "" if ours.layout == theirs.layout else f"has layout {ours.layout}, not {theirs.layout}"
        if ours.device.type != "moai":
            return f"lies on {ours.device}"
        try:
            torch.testing.assert_close(
                ours.detach().cpu(), theirs.detach(), equal_nan=True, **(tolerance or {})
            )
        except AssertionError as error:
            return " ".join(str(error).split())[:300]
        return ""
    if isinstance(theirs, float) and theirs != theirs:
        return "" if ours != ours else f"{ours} is not nan"
    if isinstance(theirs, (torch.device, torch.storage.UntypedStorage, torch.storage.TypedStorage)):
        return ""
    return "" if ours == theirs else f"{ours} is not {theirs}"


def differences(case: Case, ours: Results, theirs: Results, values: bool = True) -> Iterator[str]:
    for what in ("tree", "grads"):
        got, wanted = tree_flatten(getattr(ours, what))[0], tree_flatten(getattr(theirs, what))[0]
        what = "result" if what == "tree" else "gradient"
        if len(got) != len(wanted):
            yield f"{len(got)} {what}s, not {len(wanted)}"
            continue
        for i, (a, b) in enumerate(zip(got, wanted, strict=True)):
            if values:
                difference = same(a, b, TOLERANCES.get(case.op))
            elif isinstance(b, torch.Tensor):
                difference = (
                    ""
                    if (a.shape, a.dtype) == (b.shape, b.dtype)
                    else f"{a.dtype}{a.shape}, not {b.dtype}{b.shape}"
                )
                a.cpu()
            else:
                difference = ""
            if difference:
                yield f"{what} {i}: {difference}"
    if ours.shares != theirs.shares:
        yield f"shares storages (result, input) {ours.shares}, not {theirs.shares}"


def is_random(case: Case, theirs: Results) -> bool:
    """Does the CPU itself give other numbers with another seed?"""
    for seed in range(8):  # two may agree on a few draws
        torch.manual_seed(seed)
        with unittest.mock.patch("torch.manual_seed"):  # the database fixes seeds of its own
            again = evaluate(case, "cpu", seed=0)
        pairs = zip(
            tensors_in([theirs.tree, theirs.grads]), tensors_in([again.tree, again.grads]), strict=True
        )
        if any(a.shape != b.shape or not torch.equal(a, b) for a, b in pairs if not a.isnan().any()):
            return True
    return False


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def check(name: str) -> Outcome:
    """Runs everything that the database has for an op, on both."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _check(OPS[name], Outcome(name))


def _check(op, outcome: Outcome) -> Outcome:
    start = time.perf_counter()
    pairs: list[tuple[Case, Results, Results]] = []
    expected: list[tuple[Case, Results]] = []
    for case in cases_of(op):
        try:
            expected.append((case, evaluate(case, "cpu", seed=7)))
        except Exception:  # noqa: BLE001, PERF203  the CPU does not do it either
            continue
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
    outcome.reasons = _not_recorded(before, moai.stats())

    for case, ours, theirs in pairs:
        try:
            found = list(differences(case, ours, theirs, values=outcome.name not in UNDEFINED))
            if found and is_random(case, theirs):
                outcome.random = True
                found = list(differences(case, ours, theirs, values=False))
        except Exception as error:  # noqa: BLE001
            found = [f"when read: {first_line(error)}"]
        outcome.problems += [f"{case.kind}: {f}" for f in found]
        for a, b in zip(tensors_in(ours.tree), tensors_in(theirs.tree), strict=False):
            if a.layout == b.layout == torch.strided and a.shape == b.shape and a.numel() > 1:
                outcome.strides_differ |= a.stride() != b.stride()
    outcome.problems += errors_that_differ(op, outcome)
    outcome.seconds = time.perf_counter() - start
    return outcome


def errors_that_differ(op, outcome: Outcome) -> Iterator[str]:
    """The database's wrong calls: is eager's own error raised, at the call or at the next read?"""
    torch.manual_seed(0)
    wrong = list(op.error_inputs("cpu")) if op.error_inputs_func is not None else []
    for i, error in enumerate(wrong):
        case = Case(
            outcome.name, f"error {i}", error.sample_input, lambda s: op(s.input, *s.args, **s.kwargs)
        )
        try:
            theirs = error_of(case, "cpu")
        except Exception:  # noqa: BLE001  not a sample that can be copied
            continue
        if theirs is None or (ALIASED in theirs and outcome.name in WRITES_A_COPY):
            continue
        outcome.errors += 1
        ours = error_of(case, "moai")
        if ours is None:
            yield f"{case.kind}: no error, where the CPU says {theirs[:200]}"
        elif theirs not in ours:
            yield f"{case.kind}: {ours[:200]}, where the CPU says {theirs[:200]}"


def error_of(case: Case, device: str) -> str | None:
    """Its first line, devices left out."""
    sample, _ = on(device, case)
    try:
        for tensor in tensors_in(case.call(sample)):
            tensor.cpu()
    except Exception as error:  # noqa: BLE001
        return str(error).split("\n")[0].replace("moai:0", "cpu").replace("moai", "cpu")
    finally:
        with contextlib.suppress(RuntimeError):
            moai.sync()
    return None


def _not_recorded(before: dict, after: dict) -> dict[str, int]:
    reasons = Counter(after["at_once"])
    reasons.subtract(before["at_once"])
    if not any(reasons.values()):
        for reason in FORCED_CUTS:
            reasons[reason] = after["cut_reasons"].get(reason, 0) - before["cut_reasons"].get(reason, 0)
    return {name: count for name, count in reasons.items() if count > 0}


# ---- All of them, each in a process of its own so that a crash costs one op


def check_in_processes(names: list[str], jobs: int = 2) -> list[Outcome]:
    """Outcomes in the order of `names`. Forks: call it before anything was run."""
    outcomes: dict[str, Outcome] = {}
    running: dict[int, tuple[str, int]] = {}
    todo = list(reversed(names))
    while todo or running:
        while todo and len(running) < jobs:
            name = todo.pop()
            read, write = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(read)
                answer = json.dumps(dataclasses.asdict(check(name))).encode()
                with os.fdopen(write, "wb") as pipe:
                    pipe.write(answer)
                os._exit(0)
            os.close(write)
            running[child] = (name, read)
        # The answer may be larger than what a pipe holds, so it is read to its end first.
        child = min(running)
        name, read = running.pop(child)
        with os.fdopen(read, "rb") as pipe:
            answer = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if answer:
            outcomes[name] = Outcome(**json.loads(answer))
        else:
            outcomes[name] = Outcome(name, problems=[f"the process died with {status}"])
    return [outcomes[n] for n in names]


def summary(outcomes: list[Outcome]) -> str:
    """Totals and what is missing, as the Markdown of docs/coverage.md."""
    n = len(outcomes)
    equal = [o for o in outcomes if o.equal]
    recorded = [o for o in outcomes if not o.reasons]
    dependent = [o for o in outcomes if o.reasons and o.recorded]
    lines = [
        "# Ops of torch's database",
        "",
        f"`python tests/python/opinfo.py` on torch {torch.__version__}: {n} ops and variants in float32 (integers where an op",
        "has no float32 kernel), forward, strided inputs, backward, in place and `out=`, all samples of an op in one graph.",
        "",
        "| | ops | of all |",
        "|---|---|---|",
        f"| equal to the CPU | {len(equal)} | {len(equal) / n:.1%} |",
        f"| recorded | {len(recorded)} | {len(recorded) / n:.1%} |",
        f"| run at once or read, since they depend on data | {len(dependent)} | {len(dependent) / n:.1%} |",
        f"| random: same sizes and dtypes | {sum(o.random for o in outcomes)} | |",
        f"| cases run | {sum(o.cases for o in outcomes)} | |",
        f"| wrong calls that raise eager's error | {sum(o.errors for o in outcomes)} | |",
        "",
        "## Known to differ",
        "",
        "| op | why |",
        "|---|---|",
        *(f"| {o.name} | {KNOWN.get(o.name, _why(o))} |" for o in outcomes if not (o.equal and o.recorded)),
        "",
        "## Dependent on data",
        "",
        "| op | why |",
        "|---|---|",
        *(f"| {o.name} | {DEPENDS_ON_DATA[o.name]} |" for o in outcomes if o.name in DEPENDS_ON_DATA),
        "",
    ]
    return "\n".join(lines)


def _why(outcome: Outcome) -> str:
    if outcome.problems:
        return "differs: " + outcome.problems[0].replace("|", "\\|")[:160]
    return "not recorded: " + ", ".join(f"{k} ({v})" for k, v in outcome.reasons.items())


def report(outcome: Outcome) -> str:
    mark = "ok" if outcome.equal and outcome.recorded else "differs" if not outcome.equal else "not recorded"
    lines = [f"{outcome.name}: {mark}, {outcome.cases} cases in {outcome.seconds:.1f} s"]
    lines += [f"    {p}" for p in outcome.problems]
    lines += [f"    at once: {k} ({v})" for k, v in outcome.reasons.items()]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    outcomes = check_in_processes(arguments or EVERYTHING)
    for outcome in outcomes:
        if not (outcome.equal and outcome.recorded) or arguments:
            print(report(outcome))
    if not arguments:
        page = Path(__file__).parents[2] / "docs" / "coverage.md"
        page.parent.mkdir(exist_ok=True)
        page.write_text(summary(outcomes))
        if raw := os.environ.get("MOAI_TEST_OUTCOMES"):
            Path(raw).write_text("\n".join(json.dumps(dataclasses.asdict(o)) for o in outcomes))
    unexpected = [o.name for o in outcomes if not (o.equal and o.recorded) and o.name not in KNOWN]
    print(summary(outcomes).split("## ")[0])
    print("unexpected:", ", ".join(unexpected) or "none")
    return bool(unexpected)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
