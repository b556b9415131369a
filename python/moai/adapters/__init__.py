"""What libraries with fixed lists of devices need to use moai, applied to each when a script imports it.

A library that would choose the CPU by itself chooses moai. What names a device (``use_cpu=True``, ``accelerator="cpu"``), machines
with another accelerator, and processes that a launcher started stay as they are without moai.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings

# Module of a library -> "file of this folder:function", called with the module once it has run.
ADAPTERS = {
    **{
        f"{fabric}.{module}": f"lightning:{function}"
        for fabric in ("lightning.fabric", "lightning_fabric")
        for module, function in (
            ("accelerators", "register_accelerator"),
            ("connector", "choose_moai"),
            ("utilities.seed", "keep_random_state"),
        )
    },
    **{
        f"{trainer}.{module}": f"lightning:{function}"
        for trainer in ("lightning.pytorch", "pytorch_lightning")
        for module, function in (
            ("accelerators", "register_accelerator"),
            ("trainer.connectors.accelerator_connector", "choose_moai"),
        )
    },
    "accelerate.accelerator": "accelerate:scale_float16",
    "accelerate.checkpointing": "accelerate:keep_random_state",
    "accelerate.state": "accelerate:choose_moai",
    "safetensors": "safetensors:read_to_moai",
    "torch.amp.grad_scaler": "grad_scaler:step_without_reading",
    "torch.multiprocessing.reductions": "multiprocessing:refuse_to_share",
    "torch.nn.attention.flex_attention": "flex_attention:accept_moai",
    "torch._inductor.compile_fx": "torch_compile:fall_through",
    "transformers.trainer": "transformers:adapt_trainer",
    "transformers.training_args": "transformers:choose_moai",
}


def replaces_the_cpu() -> bool:
    """True unless a launcher started this process as one of several: those talk to each other by themselves."""
    alone = os.environ.get("LOCAL_RANK", "-1") == "-1"
    return alone and all(
        os.environ.get(size, "1") == "1" for size in ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
    )


def adapt(module) -> None:
    """Apply the adapter of `module`. One that no longer fits warns: the library then works as without it."""
    file, _, function = ADAPTERS[module.__name__].partition(":")
    try:
        getattr(importlib.import_module(f"moai.adapters.{file}"), function)(module)
    except Exception as error:
        warnings.warn(
            f"moai does not fit this version of {module.__name__.split('.')[0]} ({module.__name__}: {error!r});"
            " it works on moai only where the script names the device",
            stacklevel=2,
        )


# Modules that import torch themselves and had not finished when moai came with it.
_half_imported: list = []


class _Finder:
    """Finds nothing itself; has the module that the next finder finds adapted once it has run."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        while _half_imported and not _half_imported[-1].__spec__._initializing:
            adapt(_half_imported.pop())
        if name not in ADAPTERS:
            return None
        for finder in sys.meta_path:
            spec = None if finder is _Finder else finder.find_spec(name, path, target)
            if spec is None:
                continue
            if hasattr(spec.loader, "exec_module"):
                _adapt_after(spec.loader, name)
            return spec
        return None


def _adapt_after(loader, name: str) -> None:
    execute = loader.exec_module

    def exec_module(module) -> None:
        execute(module)
        if module.__name__ == name:
            loader.exec_module = execute
            adapt(module)

    loader.exec_module = exec_module


def install() -> None:
    """Adapt the libraries that are imported from now on, and those that are already."""
    sys.meta_path.insert(0, _Finder)
    for name in ADAPTERS:
        module = sys.modules.get(name)
        if module is not None and getattr(module.__spec__, "_initializing", False):
            _half_imported.append(module)
        elif module is not None:
            adapt(module)
