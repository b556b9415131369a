"""torch.compile: what it captured runs op by op and is recorded, as without it; moai compiles whole steps by itself."""

from __future__ import annotations

import functools
import warnings

import torch

_told = False


def fall_through(module) -> None:
    """Inductor has no code for moai: a graph with a tensor of moai runs as it was captured."""
    compile_fx = module.compile_fx

    @functools.wraps(compile_fx)
    def compile_or_record(model_, example_inputs_, *args, **kwargs):
        if not isinstance(model_, torch.fx.GraphModule) or not _uses_moai(model_, example_inputs_):
            return compile_fx(model_, example_inputs_, *args, **kwargs)
        _say_once()
        return model_.forward

    module.compile_fx = compile_or_record


def _uses_moai(graph_module, inputs) -> bool:
    values = [*inputs, *(node.meta.get("example_value") for node in graph_module.graph.nodes)]
    return any(isinstance(value, torch.Tensor) and value.device.type == "moai" for value in values)


def _say_once() -> None:
    global _told
    if not _told:
        _told = True
        warnings.warn(
            "torch.compile adds nothing on moai, which records and compiles whole steps by itself: what was captured"
            " runs op by op and is recorded",
            stacklevel=2,
        )
