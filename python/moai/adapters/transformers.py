"""transformers: the device of ``TrainingArguments``, bfloat16 there, the random state of a checkpoint, losses that are not finite."""

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


def adapt_trainer(module) -> None:
    """What ``Trainer`` does for the devices in its list, and does by asking the device."""
    keep_random_state(module)
    filter_losses_unread(module)


def filter_losses_unread(module) -> None:
    """``Trainer`` logs the mean so far in place of a loss that is not finite, and reads each loss to know.

    On moai the device makes that choice; ``logging_nan_inf_filter`` is off from there to the end of the step.
    """
    trainer = module.Trainer
    run_epoch, log_save_evaluate = trainer._run_epoch, trainer._maybe_log_save_evaluate

    @functools.wraps(run_epoch)
    def _run_epoch(self, *args, **kwargs):
        if self.args.device.type != "moai" or not self.args.logging_nan_inf_filter:
            return run_epoch(self, *args, **kwargs)
        training_step, own = self.training_step, vars(self).get("training_step")

        @functools.wraps(training_step)
        def finite(*args, **kwargs) -> torch.Tensor:
            loss = training_step(*args, **kwargs)
            self.args.logging_nan_inf_filter = False
            steps = 1 + self.state.global_step - self._globalstep_last_logged
            return torch.where(loss.isfinite(), loss, self._tr_loss / steps)

        self.training_step, self._filters_losses = finite, True
        try:
            return run_epoch(self, *args, **kwargs)
        finally:
            del self.training_step, self._filters_losses
            if own is not None:
                self.training_step = own
            self.args.logging_nan_inf_filter = True

    @functools.wraps(log_save_evaluate)
    def _maybe_log_save_evaluate(self, *args, **kwargs):
        if getattr(self, "_filters_losses", False):
            self.args.logging_nan_inf_filter = True
        return log_save_evaluate(self, *args, **kwargs)

    trainer._run_epoch, trainer._maybe_log_save_evaluate = _run_epoch, _maybe_log_save_evaluate
