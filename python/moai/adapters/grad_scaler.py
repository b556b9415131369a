"""``GradScaler``: optimizers that torch has a fused step for learn on the device whether to step."""

from __future__ import annotations

import functools

import torch


def step_without_reading(module) -> None:
    """``GradScaler`` reads whether a gradient overflowed, to decide whether it calls ``optimizer.step()``.

    A fused step takes the answer as a tensor, so that nobody waits for it. An optimizer whose implementation the
    script left to torch (neither ``fused`` nor ``foreach`` given) becomes fused at its first such step.
    """
    scaler = module.GradScaler
    ask_first = scaler._maybe_opt_step

    @functools.wraps(ask_first)
    def _maybe_opt_step(self, optimizer, optimizer_state, *args, **kwargs):
        found_inf = list(optimizer_state["found_inf_per_device"].values())
        if len(found_inf) != 1 or not found_inf[0].is_moai or not _may_fuse(optimizer):
            return ask_first(self, optimizer, optimizer_state, *args, **kwargs)
        _fuse(optimizer)
        optimizer.grad_scale, optimizer.found_inf = None, found_inf[0]
        try:
            return optimizer.step(*args, **kwargs)
        finally:
            del optimizer.grad_scale, optimizer.found_inf

    scaler._maybe_opt_step = _maybe_opt_step


def _may_fuse(optimizer) -> bool:
    """Whether a fused step leaves what skipping it would leave, and nobody counts calls of ``step``."""
    known = type(optimizer) in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
    if not known or _is_watched(optimizer):
        return False
    return all(_is_fusable(group, optimizer.state) for group in optimizer.param_groups)


def _is_watched(optimizer) -> bool:
    hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    step = vars(optimizer).get(
        "step"
    )  # a schedule's wrapper, or a library's that wants to know of skipped steps
    return bool(hooks) or (step is not None and not hasattr(step, "_wrapped_by_lr_sched"))


def _is_fusable(group: dict, state: dict) -> bool:
    if group["fused"]:
        return True
    if group["fused"] is False or group["foreach"] is not None or group["differentiable"]:
        return False
    parameters = [p for p in group["params"] if p.grad is not None]
    if not all(p.is_moai and p.is_floating_point() for p in parameters):
        return False
    # Skipped at the first step, torch's fused SGD goes on with a momentum that nobody wrote.
    return not group.get("momentum") or all(
        state.get(p, {}).get("momentum_buffer") is not None for p in parameters
    )


def _fuse(optimizer) -> None:
    for group in optimizer.param_groups:
        if group["fused"]:
            continue
        group["fused"] = True
        for parameter in group["params"]:
            step = optimizer.state.get(parameter, {}).get("step")
            if step is not None:
                optimizer.state[parameter]["step"] = step.to(parameter.device, torch.float32)
