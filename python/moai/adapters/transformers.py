"""transformers: the device of ``TrainingArguments``, bfloat16 there, and the random state of a checkpoint."""

from __future__ import annotations

import functools
import os

import torch

from moai.adapters import replaces_the_cpu

_RANDOM_STATE = "moai_random_state.pt"


def choose_moai(module) -> None:
    """``TrainingArguments`` has its own list of devices; moai is what Accelerate chose before it."""
    arguments = module.TrainingArguments
    set_up = arguments.__dict__["_setup_devices"].func

    @functools.wraps(set_up)
    def _setup_devices(self) -> torch.device:
        device = set_up(self)
        state = self.distributed_state
        if state is None or state.device.type != "moai" or self.use_cpu:
            return device
        self._n_gpu = 1
        return state.device

    arguments._setup_devices = functools.cached_property(_setup_devices)
    arguments._setup_devices.__set_name__(arguments, "_setup_devices")

    known = module.is_torch_bf16_gpu_available

    @functools.wraps(known)
    def is_torch_bf16_gpu_available() -> bool:
        return known() or replaces_the_cpu()

    module.is_torch_bf16_gpu_available = is_torch_bf16_gpu_available


def keep_random_state(module) -> None:
    """``Trainer`` writes the random state of the devices in its list."""
    trainer = module.Trainer
    save, load = trainer._save_rng_state, trainer._load_rng_state

    @functools.wraps(save)
    def _save_rng_state(self, output_dir) -> None:
        save(self, output_dir)
        if self.args.device.type == "moai":
            torch.save(torch.moai.get_rng_state(), os.path.join(output_dir, _RANDOM_STATE))

    @functools.wraps(load)
    def _load_rng_state(self, checkpoint) -> None:
        load(self, checkpoint)
        file = os.path.join(checkpoint or "", _RANDOM_STATE)
        if checkpoint is not None and os.path.exists(file):
            torch.moai.set_rng_state(torch.load(file))

    trainer._save_rng_state, trainer._load_rng_state = _save_rng_state, _load_rng_state
