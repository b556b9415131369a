"""``torch.moai``: what PyTorch expects of a device's module."""

from __future__ import annotations

import torch

from moai import _C

_initialized = True  # asked by torch.utils.checkpoint before it keeps the random state


def _lazy_init() -> None:
    """Nothing to set up; torch.accelerator asks for it before it synchronises."""


class device:
    """Context manager that selects a device, as ``torch.cuda.device`` does; there is one to select."""

    def __init__(self, device) -> None:
        self.idx = 0
        set_device(0 if device is None else device)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc) -> bool:
        return False


def is_available() -> bool:
    """True: without GPUs the device runs on the CPU."""
    return True


def is_initialized() -> bool:
    """True: there is nothing to set up."""
    return True


def _is_in_bad_fork() -> bool:
    return False


def device_count() -> int:
    """Always 1: a whole cluster is one device."""
    return 1


def current_device() -> int:
    """Always 0."""
    return 0


def set_device(device) -> None:
    """Accepts the one device there is."""
    index = torch.device(device).index if not isinstance(device, int) else device
    if index not in (None, 0, -1):
        raise RuntimeError(f"moai is one device: there is no moai:{index}")


def synchronize(device=None) -> None:
    """Run everything that is recorded, and wait for it."""
    _C.synchronize()


def manual_seed(seed: int) -> None:
    """Seed the device's random numbers."""
    manual_seed_all(seed)


def manual_seed_all(seed: int) -> None:
    """Seed the device's random numbers."""
    _C.manual_seed(int(seed) & 0xFFFFFFFFFFFFFFFF)


def initial_seed() -> int:
    """The seed that was set last."""
    return _C.initial_seed()


def get_rng_state(device="moai") -> torch.Tensor:
    """State of the device's generator, a CPU ByteTensor. Cuts nothing."""
    return _C.get_rng_state()


def set_rng_state(new_state: torch.Tensor, device="moai") -> None:
    """Set the state of the device's generator."""
    _C.set_rng_state(new_state)


def get_amp_supported_dtype() -> list[torch.dtype]:
    """Types that ``torch.autocast("moai")`` accepts."""
    return [torch.bfloat16, torch.float16]


def memory_allocated(device=None) -> int:
    """Bytes that tensors and programs hold now."""
    return _C.stats()["live_bytes"]


def max_memory_allocated(device=None) -> int:
    """Most bytes that were held at once since :func:`reset_peak_memory_stats`."""
    return _C.stats()["peak_bytes"]


def memory_reserved(device=None) -> int:
    """Bytes taken from the system: held and cached."""
    return _C.stats()["reserved_bytes"]


def reset_peak_memory_stats(device=None) -> None:
    """Start :func:`max_memory_allocated` anew."""
    _C.reset_peak_memory()


def empty_cache() -> None:
    """Give cached memory back to the system."""
    _C.trim_memory()
