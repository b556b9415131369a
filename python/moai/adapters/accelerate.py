"""Accelerate: the device that ``Accelerator`` chooses, float16's loss scale, and the random state of a checkpoint."""

from __future__ import annotations

import functools
import inspect
import os
from pathlib import Path

import torch

from moai.adapters import replaces_the_cpu

_RANDOM_STATE = "moai_random_state.pt"


def choose_moai(module) -> None:
    """``PartialState`` has a list of devices that ends with the CPU."""
    listed = module.PartialState.default_device

    @functools.wraps(listed.fget)
    def default_device(self) -> torch.device:
        device = listed.fget(self)
        return torch.device("moai") if device.type == "cpu" and replaces_the_cpu() else device

    module.PartialState.default_device = property(default_device)


def scale_float16(module) -> None:
    """``Accelerator`` refuses float16 on devices that are not in its list: it is made without, and gets it afterwards."""
    init = module.Accelerator.__init__
    signature = inspect.signature(init)

    @functools.wraps(init)
    def __init__(self, *args, **kwargs) -> None:
        given = signature.bind(self, *args, **kwargs)
        if (
            _asked_precision(module, given.arguments) != "fp16"
            or _device(module, given.arguments).type != "moai"
        ):
            return init(self, *args, **kwargs)
        given.arguments["mixed_precision"] = "no"
        state = module.AcceleratorState._shared_state
        if state:
            state["_mixed_precision"] = "no"
        try:
            init(*given.args, **given.kwargs)
        finally:
            if state:
                state["_mixed_precision"] = "fp16"
        self.native_amp = True
        options = {} if self.scaler_handler is None else self.scaler_handler.to_kwargs()
        self.scaler = torch.amp.GradScaler("moai", **options)
        return None

    module.Accelerator.__init__ = __init__


def _asked_precision(module, given: dict) -> str:
    asked = given.get("mixed_precision") or module.AcceleratorState._shared_state.get("_mixed_precision")
    return str(asked or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")).lower()


def _device(module, given: dict) -> torch.device:
    from accelerate.utils import parse_flag_from_env

    cpu = given.get("cpu", False) or parse_flag_from_env("ACCELERATE_USE_CPU")
    return module.PartialState(cpu=bool(cpu)).device


def keep_random_state(module) -> None:
    """``save_state`` writes the random state of the devices in its list."""
    save, load = module.save_accelerator_state, module.load_accelerator_state

    @functools.wraps(save)
    def save_accelerator_state(output_dir, *args, **kwargs):
        written = save(output_dir, *args, **kwargs)
        torch.save(torch.moai.get_rng_state(), Path(output_dir) / _RANDOM_STATE)
        return written

    @functools.wraps(load)
    def load_accelerator_state(input_dir, *args, **kwargs):
        read = load(input_dir, *args, **kwargs)
        file = Path(input_dir) / _RANDOM_STATE
        if file.exists():
            torch.moai.set_rng_state(torch.load(file))
        return read

    module.save_accelerator_state, module.load_accelerator_state = (
        save_accelerator_state,
        load_accelerator_state,
    )
