"""Lightning's Trainer and Fabric, under both names of the packages: an accelerator ``moai``, and ``auto`` that finds it."""

from __future__ import annotations

import functools
import importlib
import inspect
import os

import torch

from moai.adapters import replaces_the_cpu


def register_accelerator(module) -> None:
    """Add ``moai`` to the registry of the package ``accelerators``."""

    class MoaiAccelerator(module.Accelerator):
        """The device moai, of which there is one."""

        def setup_device(self, device: torch.device) -> None:
            if device.type != "moai":
                raise ValueError(f"Device should be moai, got {device} instead.")

        def teardown(self) -> None:
            pass

        def get_device_stats(self, device) -> dict[str, float]:
            return {
                name: getattr(torch.moai, name)() for name in ("memory_allocated", "max_memory_allocated")
            }

        @staticmethod
        def parse_devices(devices) -> int:
            if str(devices) not in ("auto", "1", "-1", "0,", "[0]"):
                raise ValueError(f"moai is one device: devices={devices!r} asks for others; devices=1 works")
            return 1

        @staticmethod
        def get_parallel_devices(devices) -> list[torch.device]:
            return [torch.device("moai", 0)]

        @staticmethod
        def auto_device_count() -> int:
            return 1

        @staticmethod
        def is_available() -> bool:
            return True

        @staticmethod
        def name() -> str:
            return "moai"

        @classmethod
        def register_accelerators(cls, accelerator_registry) -> None:
            accelerator_registry.register(cls.name(), cls, description=cls.__name__)

    module.MoaiAccelerator = MoaiAccelerator
    registry = "AcceleratorRegistry" if hasattr(module, "AcceleratorRegistry") else "ACCELERATOR_REGISTRY"
    MoaiAccelerator.register_accelerators(getattr(module, registry))


def choose_moai(module) -> None:
    """The connector chooses accelerator, strategy and precision from fixed lists."""
    connector = module._Connector if hasattr(module, "_Connector") else module._AcceleratorConnector
    accelerators = importlib.import_module(module.Accelerator.__module__.rpartition(".")[0])
    init, strategy, precision = (
        connector.__init__,
        connector._choose_strategy,
        connector._check_and_init_precision,
    )
    signature = inspect.signature(init)

    @functools.wraps(init)
    def __init__(self, *args, **kwargs) -> None:
        given = signature.bind(self, *args, **kwargs)
        given.apply_defaults()
        asked = {
            name: given.arguments.get(name) for name in ("accelerator", "strategy", "devices", "num_nodes")
        }
        if _all_auto(**asked) and connector._choose_auto_accelerator() == "cpu" and replaces_the_cpu():
            given.arguments["accelerator"] = "moai"
        init(*given.args, **given.kwargs)

    def is_ours(self) -> bool:
        return isinstance(self.accelerator, accelerators.MoaiAccelerator)

    @functools.wraps(strategy)
    def _choose_strategy(self):
        chosen = strategy(self)
        on_one = isinstance(chosen, module.SingleDeviceStrategy)
        return (
            module.SingleDeviceStrategy(device=torch.device("moai", 0))
            if is_ours(self) and on_one
            else chosen
        )

    @functools.wraps(precision)
    def _check_and_init_precision(self):
        fabric = hasattr(self, "_precision_input")
        name, instance = (
            ("_precision_input", "_precision_instance")
            if fabric
            else ("_precision_flag", "_precision_plugin_flag")
        )
        asked = getattr(self, name)
        if is_ours(self) and getattr(self, instance) is None and asked in ("16-mixed", "bf16-mixed"):
            return module.MixedPrecision(asked, "moai")
        return precision(self)

    connector.__init__ = __init__
    connector._choose_strategy = _choose_strategy
    connector._check_and_init_precision = _check_and_init_precision


def _all_auto(accelerator, strategy, devices, num_nodes) -> bool:
    named = "LT_ACCELERATOR" in os.environ or "LT_DEVICES" in os.environ
    return (
        accelerator == "auto"
        and strategy == "auto"
        and devices in ("auto", 1, "1")
        and num_nodes == 1
        and not named
    )


def keep_random_state(module) -> None:
    """What must not draw numbers (the check before training) puts back the random state of the devices in a list."""
    collect, restore = module._collect_rng_states, module._set_rng_states

    @functools.wraps(collect)
    def _collect_rng_states(*args, **kwargs) -> dict:
        return {**collect(*args, **kwargs), "torch.moai": torch.moai.get_rng_state()}

    @functools.wraps(restore)
    def _set_rng_states(states: dict) -> None:
        restore(states)
        if "torch.moai" in states:
            torch.moai.set_rng_state(states["torch.moai"])

    module._collect_rng_states, module._set_rng_states = _collect_rng_states, _set_rng_states
