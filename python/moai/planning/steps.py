"""Where a script's step ends, told from what the script calls, and which of its steps is planned."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

import moai

from .. import _C

# Steps at most: the first makes the optimizer's state, and a schedule or a warm-up may change the second.
MOST_STEPS = 4
# The same while an optimizer that was made has not stepped yet: a critic may step often before its generator does.
MOST_STEPS_OF_SOME = 12
# Of optimizers whose parameters lie on the host, where nothing is dry: a script that makes these and no other is no script
# for moai, and would train to its end.
MOST_HOST_STEPS = 10
_OP = re.compile(r" = (?:!bw )?([\w.]+)")
# Where a slice of a data set that lies on the device begins is another number in each step.
_SLICE = re.compile(r"(moai\.slice\(%\d+, \d+), \d+,")


class StepRecorded(BaseException):
    """Ends the script: its step is recorded, or it makes none. No Exception, so that the script does not catch it."""


@dataclass
class OneStep:
    """What lay between two ends of a step."""

    graph: str  # as text
    rounds: int  # of forward and backward over a batch each, whose gradients were added up


class Steps:
    """Watches a script's steps, and ends the script when two were alike.

    Of several optimizers (a discriminator's and a generator's) all step in one step, which ends with the one that came
    last. A script that makes no optimizer, and updates its weights by itself, begins a step with the first module that
    it calls after a backward.
    """

    def __init__(self) -> None:
        self.steps: list[OneStep] = []
        self.parameters: dict[int, int] = {}  # by optimizer, or by the module where there is none
        self.batches = 0  # tensors that came from the host since the last step's end
        self.host_steps = 0
        self._made: set[int] = set()  # optimizers
        self._last = 0  # the optimizer whose first step came after the others'
        self._backwards = 0

    @property
    def settled(self) -> bool:
        """The last two steps were alike."""
        if len(self.steps) < 2:
            return False
        last, before = (_SLICE.sub(r"\1, ,", step.graph) for step in (self.steps[-1], self.steps[-2]))
        return last == before != ""

    @property
    def other_sizes(self) -> bool:
        """The last two steps were the same ops, and not alike: batches that are padded to their longest sample."""
        if len(self.steps) < 2 or self.settled:
            return False
        last, before = (_OP.findall(step.graph) for step in (self.steps[-1], self.steps[-2]))
        return last == before

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Watch what is called within."""
        backward, made = torch.autograd.backward, torch.optim.Optimizer.__init__

        def counted(*args, **kwargs):
            # A graph that is kept is gone through once more: this is not the end of a round.
            kept = kwargs.get("retain_graph", args[2] if len(args) > 2 else False)
            backward(*args, **kwargs)
            self._backwards += not kept

        def noted(optimizer, *args, **kwargs):
            self._made.add(id(optimizer))
            made(optimizer, *args, **kwargs)

        hooks = [
            register_optimizer_step_post_hook(self._optimizer_stepped),
            register_module_forward_pre_hook(self._module_called),
        ]
        torch.autograd.backward, torch.optim.Optimizer.__init__ = counted, noted
        moai._optimizers_end_steps = False
        try:
            yield
        finally:
            moai._optimizers_end_steps = True
            torch.autograd.backward, torch.optim.Optimizer.__init__ = backward, made
            for hook in hooks:
                hook.remove()

    def _optimizer_stepped(self, optimizer, args, kwargs) -> None:
        tensors = [p for group in optimizer.param_groups for p in group["params"]]
        if not any(p.device.type == "moai" for p in tensors):
            self.host_steps += 1
            if self.host_steps == MOST_HOST_STEPS and not self.steps:
                raise StepRecorded
            return
        if id(optimizer) not in self.parameters:
            self.parameters[id(optimizer)] = sum(p.numel() for p in tensors)
            self._last = id(optimizer)
            self.steps.clear()  # what was taken for steps were parts of them
        if id(optimizer) == self._last:
            self._end()

    def _module_called(self, module, args) -> None:
        if self._made or not self._backwards:
            return
        tensors = [p for p in module.parameters() if p.device.type == "moai"]
        if not tensors:
            return
        self.parameters = {id(module): sum(p.numel() for p in tensors)}
        self._end()

    def _end(self) -> None:
        graph = _C.dry_step()
        _C.set_dry(True)  # forgets
        # Each round brings as many tensors; a generator's and a discriminator's share one batch.
        rounds = self._backwards
        each_has_its_batch = rounds > 0 and self.batches > 0 and self.batches % rounds == 0
        self.steps.append(OneStep(graph, rounds if each_has_its_batch else 1))
        self.batches = self._backwards = 0
        all_stepped = len(self.parameters) >= len(self._made)
        if len(self.steps) == (MOST_STEPS if all_stepped else MOST_STEPS_OF_SOME) or (
            all_stepped and self.settled
        ):
            raise StepRecorded
