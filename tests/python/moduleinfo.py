"""Conformity by torch's module and optimizer databases (torch.testing._internal): equal to the CPU, and recorded?

A module is made on the CPU, moved, called forward and backward twice, and gives its state_dict; an optimizer takes steps, gives its
state_dict, and goes on from it in a new one.

    python tests/python/moduleinfo.py nn.Linear Adam
"""

from __future__ import annotations

import copy
import dataclasses
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import moai
import torch
from torch import nn
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db
from torch.testing._internal.common_optimizers import OptimizerErrorEnum, optim_db
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
    tensors_in,
)

MODULES = {info.name: info for info in module_db}
OPTIMIZERS = {info.name: info for info in optim_db}
STEPS = 3
# Torch keeps step counters, and a rate that is a tensor, on the CPU.
PLACES = {"state": None, "groups": None}


@dataclasses.dataclass
class Case:
    """One use of a module or optimizer: ``run(device)`` returns all that is to be equal."""

    kind: str
    run: Callable[[str], object]


class Copies:
    """Copies of tensors on a device; one that comes twice stays one, and a parameter a parameter."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.made: dict[int, torch.Tensor] = {}

    def __call__(self, tree: object) -> object:
        return tree_map(self.copy, tree)

    def copy(self, leaf: object) -> object:
        if isinstance(leaf, (torch.device, str)) and str(leaf) == "cpu":
            return torch.device(self.device)
        if isinstance(leaf, torch.nn.utils.rnn.PackedSequence):
            return leaf.to(self.device)
        if not isinstance(leaf, torch.Tensor):
            return leaf
        if id(leaf) not in self.made:
            there = leaf.detach().clone().to(self.device)
            if isinstance(leaf, nn.Parameter):
                there = nn.Parameter(there, requires_grad=leaf.requires_grad)
            self.made[id(leaf)] = there.requires_grad_(leaf.requires_grad)
        return self.made[id(leaf)]

    def gradients(self) -> list[torch.Tensor | None]:
        return [t.grad for t in self.made.values() if t.requires_grad]


def detached(tree: object) -> object:
    return tree_map(lambda t: t.detach() if isinstance(t, torch.Tensor) else t, tree)


def backward(results: object) -> None:
    outputs = [t for t in tensors_in(results) if t.requires_grad]
    generator = torch.Generator().manual_seed(1)
    directions = [torch.randn(t.shape, dtype=t.dtype, generator=generator).to(t.device) for t in outputs]
    if outputs:
        torch.autograd.backward(outputs, directions)


# ---- Modules


def module_dtypes(name: str) -> list[str]:
    supported = MODULES[name].supported_dtypes("cpu")
    return [d for d in ("float32", "float64", "bfloat16", "complex64") if getattr(torch, d) in supported]


def make_module(info, constructor, dtype: torch.dtype, training: bool) -> nn.Module:
    torch.manual_seed(3)
    args, kwargs = copy.deepcopy((constructor.args, constructor.kwargs))
    return info.module_cls(*args, **kwargs).to(dtype).train(training)


def use_module(info, sample, dtype: torch.dtype, training: bool, device: str) -> object:
    module = make_module(info, sample.constructor_input, dtype, training).to(device)
    copies = Copies(device)
    seen = []
    for _ in range(2):
        given = sample.forward_input
        results = module(*copies(given.args), **copies(given.kwargs))
        seen.append(detached(results))
        backward(results)
    state = module.state_dict()
    twin = make_module(info, sample.constructor_input, dtype, training).to(device)
    if not info.is_lazy:
        twin.load_state_dict(copy.deepcopy(state))
    return {
        "results": seen,
        "inputs": detached(list(copies.made.values())),
        "gradients": [copies.gradients(), [p.grad for p in module.parameters()]],
        "state": dict(state),
        "loaded": [] if info.is_lazy else dict(twin.state_dict()),
    }


def module_cases(name: str, dtype: str) -> Iterator[Case]:
    info, dtype = MODULES[name], getattr(torch, dtype)
    for training in (True, False) if info.train_and_eval_differ else (True,):
        torch.manual_seed(0)
        samples = info.module_inputs_func(
            info, device="cpu", dtype=dtype, requires_grad=True, training=training
        )
        for i, sample in enumerate(samples):
            if sample.forward_input is not None:
                yield Case(
                    f"{'train' if training else 'eval'} {i} {sample.desc}".rstrip(),
                    lambda device, s=sample, t=training: use_module(info, s, dtype, t, device),
                )


def module_errors(name: str) -> Iterator[Case]:
    info = MODULES[name]
    if info.module_error_inputs_func is None:
        return
    for training in (True, False):
        torch.manual_seed(0)
        wrong = info.module_error_inputs_func(
            info, device="cpu", dtype=torch.float32, requires_grad=False, training=training
        )
        for i, error in enumerate(wrong):

            def run(device, error=error, training=training):
                copies, given = Copies(device), error.module_error_input
                constructor = given.constructor_input
                where = {} if "device" in constructor.kwargs else {"device": device}
                if error.error_on is ModuleErrorEnum.CONSTRUCTION_ERROR:
                    return info.module_cls(*constructor.args, **copies(constructor.kwargs), **where)
                module = make_module(info, constructor, torch.float32, training).to(device)
                return module(*copies(given.forward_input.args), **copies(given.forward_input.kwargs))

            yield Case(f"error {i}", run)


# ---- Optimizers


def optimizer_dtypes(name: str) -> list[str]:
    return [
        "float32",
        "float64",
        "bfloat16",
        *(["complex64"] if OPTIMIZERS[name].supports_complex else []),
    ]


def parameters(dtype: torch.dtype, device: str) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 4), (4, 1), (2, 2))
    return [nn.Parameter(torch.randn(shape, dtype=dtype, generator=generator).to(device)) for shape in shapes]


def take_steps(optimizer, weights: list[nn.Parameter], sparse: bool) -> list[torch.Tensor]:
    def loss_of() -> torch.Tensor:
        optimizer.zero_grad()
        loss = sum(((w - 0.5) * (w - 0.5).conj()).abs().sum() for w in weights)
        loss.backward()
        if sparse:
            for w in weights:
                w.grad = w.grad.to_sparse()
        return loss

    losses = []
    for _ in range(STEPS):
        if isinstance(optimizer, torch.optim.LBFGS):
            losses.append(optimizer.step(loss_of))
        else:
            losses.append(loss_of())
            optimizer.step()
    return detached(losses)


def use_optimizer(info, given, flags: dict, dtype: torch.dtype, scheduler: Callable | None, device: str):
    weights = parameters(dtype, device)
    groups = [{"params": weights[:1]}, {"params": weights[1:]}] if info.supports_param_groups else weights
    kwargs = {**copy.deepcopy(given.kwargs), **flags}
    optimizer = info.optim_cls(groups, **kwargs)
    seen = take_steps(optimizer, weights, info.only_supports_sparse_grads)
    schedulers = [make(optimizer) for make in scheduler or ()]
    for _ in range(2 if schedulers else 0):
        seen += take_steps(optimizer, weights, info.only_supports_sparse_grads)
        for each in schedulers:
            wants_loss = isinstance(each, torch.optim.lr_scheduler.ReduceLROnPlateau)
            each.step(*([seen[-1]] if wants_loss else []))
    state = optimizer.state_dict()
    again = info.optim_cls(copy.deepcopy(groups), **kwargs)
    again.load_state_dict(copy.deepcopy(state))
    later = [p for group in again.param_groups for p in group["params"]]
    seen += take_steps(again, later, info.only_supports_sparse_grads)
    return {
        "losses": seen,
        "weights": detached([*weights, *later]),
        "state": detached([state["state"], again.state_dict()["state"]]),
        "groups": [{k: v for k, v in g.items() if k != "params"} for g in state["param_groups"]],
    }


def optimizer_cases(name: str, dtype: str) -> Iterator[Case]:
    info, dtype = OPTIMIZERS[name], getattr(torch, dtype)
    impls = [f for f in info.supported_impls if f != "fused" or "cpu" in info.supports_fused_on]
    for i, given in enumerate(info.optim_inputs_func("cpu")):
        for on in (None, *impls):
            flags = {flag: flag == on for flag in impls}
            if flags.get("foreach") and isinstance(given.kwargs.get("lr"), torch.Tensor):
                continue  # refused without `capturable`
            yield Case(
                f"{i} {given.desc} {on or ''}".rstrip(),
                lambda device, g=given, f=flags: use_optimizer(info, g, f, dtype, None, device),
            )
    given = info.optim_inputs_func("cpu")[0]
    one_by_one = dict.fromkeys(impls, False)  # the default is another one on the CPU, and rounds otherwise
    for i, scheduler in enumerate(info.scheduler_inputs):
        yield Case(
            f"scheduler {i}",
            lambda device, s=scheduler: use_optimizer(info, given, one_by_one, dtype, s, device),
        )


def optimizer_errors(name: str) -> Iterator[Case]:
    info = OPTIMIZERS[name]
    torch.manual_seed(0)
    for i, error in enumerate(info.optim_error_inputs_func("cpu", torch.float32)):

        def run(device, error=error):
            given, copies = error.optimizer_error_input, Copies(device)
            weights = parameters(torch.float32, device) if given.params is None else copies(given.params)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                optimizer = info.optim_cls(weights, **given.kwargs)
                if error.error_on is OptimizerErrorEnum.STEP_ERROR:
                    for weight in tensors_in(weights):
                        weight.grad = torch.ones_like(weight)
                    optimizer.step()
            return weights

        yield Case(f"error {i}", run)


# ---- Both


def check_module(name: str, dtype: str, tolerance: dict | None = None) -> Outcome:
    return _check(name, dtype, module_cases, module_errors if dtype == "float32" else None, tolerance)


def check_optimizer(name: str, dtype: str, tolerance: dict | None = None) -> Outcome:
    return _check(name, dtype, optimizer_cases, optimizer_errors if dtype == "float32" else None, tolerance)


def _check(
    name: str, dtype: str, cases: Callable, errors: Callable | None, tolerance: dict | None
) -> Outcome:
    outcome = Outcome(name, dtype)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, refused = [], []
        for case in cases(name, dtype):
            torch.manual_seed(7)
            try:
                expected.append((case, case.run("cpu")))
            except Exception as error:  # noqa: BLE001
                refused.append((case, error))
        outcome.cases = len(expected)
        if not expected:
            outcome.problems.append("the CPU ran none of the samples")
        moai.sync()
        before = moai.stats()
        pairs = []
        for case, theirs in expected:
            torch.manual_seed(7)
            try:
                pairs.append((case, case.run("moai"), theirs))
            except Exception as error:  # noqa: BLE001
                outcome.problems.append(f"{case.kind}: {first_line(error)}")
        outcome.reasons = not_recorded(before, moai.stats())
        for case, ours, theirs in pairs:
            try:
                found = [
                    f"{part}{line}"
                    for part in theirs
                    for line in all_same("", ours[part], theirs[part], tolerance, PLACES.get(part, "moai"))
                ]
                if found and is_random(lambda c=case: c.run("cpu"), theirs):
                    outcome.random, found = True, []
                outcome.bitwise &= bool(found) or equal_tensors(ours, theirs)
            except Exception as error:  # noqa: BLE001
                found = [f"when read: {first_line(error)}"]
            outcome.problems += [f"{case.kind}: {f}" for f in found]
        for case in errors(name) if errors else ():
            if theirs := error_of(lambda c=case: c.run("cpu")):
                refused.append((case, theirs))
        for case, theirs in refused:
            outcome.errors += 1
            if found := differing_error(error_of(lambda c=case: c.run("moai")), theirs):
                outcome.problems.append(f"{case.kind}: {found}")
    outcome.seconds = time.perf_counter() - start
    return outcome


# Each (name, dtype) to check.
MODULE_PAIRS = [(n, d) for n in MODULES for d in module_dtypes(n)]
OPTIMIZER_PAIRS = [(n, d) for n in OPTIMIZERS for d in optimizer_dtypes(n)]


def main(arguments: list[str]) -> None:
    for name in arguments or [*MODULES, *OPTIMIZERS]:
        check, pairs = (check_module, MODULE_PAIRS) if name in MODULES else (check_optimizer, OPTIMIZER_PAIRS)
        for pair in pairs:
            if pair[0] == name:
                print(check(*pair).report(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
