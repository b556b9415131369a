"""``torch.moai``: what PyTorch expects of a device's module."""

from __future__ import annotations

import os

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


class device_of(device):
    """Context manager that selects the device of a tensor; there is one to select."""

    def __init__(self, obj) -> None:
        self.idx = 0


class Stream(torch.Stream):
    """The one order in which everything runs."""

    def __new__(cls, device=None, priority: int = 0, **ids):
        return super().__new__(cls, device=torch.device("moai", _index(device)), priority=priority)


class Event(torch.Event):
    """A point in that order. One with ``enable_timing=True`` cuts where it is recorded."""

    def __new__(cls, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False):
        # torch measures between its own class only.
        return torch.Event("moai", enable_timing=enable_timing, blocking=blocking)


class StreamContext:
    """Context manager that selects a stream; there is one to select."""

    def __init__(self, stream) -> None:
        self.stream = stream

    def __enter__(self):
        return self.stream

    def __exit__(self, *exc) -> bool:
        return False


def stream(stream) -> StreamContext:
    """Select a stream for a ``with`` block."""
    return StreamContext(stream)


def current_stream(device=None) -> Stream:
    """The one stream there is."""
    return Stream(device)


def default_stream(device=None) -> Stream:
    """The one stream there is."""
    return Stream(device)


def set_stream(stream) -> None:
    """Accepts the one stream there is."""


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
    _index(device)


def _index(device) -> int:
    index = device if device is None or isinstance(device, int) else torch.device(device).index
    if index not in (None, 0, -1):
        raise RuntimeError(f"moai is one device: there is no moai:{index}")
    return 0


def get_device_name(device=None) -> str:
    """What ``MOAI_DEVICES`` names; once there was a first use, what was there of it."""
    from moai import options

    used = ", ".join(one["name"] for one in _C.stats()["devices"])
    return f"moai ({options.value('devices') or used or 'cpu'})"


def get_device_capability(device=None) -> dict:
    """The types that the device has, as :func:`torch.accelerator.get_device_capability` tells them."""
    return torch._C._accelerator_getDeviceCapability(_index(device))


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """True."""
    return True


def synchronize(device=None) -> None:
    """Run everything that is recorded, and wait for it."""
    _C.synchronize()


def manual_seed(seed: int) -> None:
    """Seed the device's random numbers."""
    manual_seed_all(seed)


def manual_seed_all(seed: int) -> None:
    """Seed the device's random numbers."""
    _C.manual_seed(int(seed) & 0xFFFFFFFFFFFFFFFF)


def seed() -> int:
    """Seed the device's random numbers with a number that nobody chose, and return it."""
    return _C.default_generator().seed()


def seed_all() -> None:
    """Seed the device's random numbers with a number that nobody chose."""
    seed()


def initial_seed() -> int:
    """The seed that was set last."""
    return _C.initial_seed()


def get_rng_state(device="moai") -> torch.Tensor:
    """State of the device's generator, a CPU ByteTensor. Cuts nothing."""
    return _C.get_rng_state()


def set_rng_state(new_state: torch.Tensor, device="moai") -> None:
    """Set the state of the device's generator."""
    _C.set_rng_state(new_state)


def get_rng_state_all() -> list[torch.Tensor]:
    """State of the one device's generator."""
    return [get_rng_state()]


def set_rng_state_all(new_states) -> None:
    """Set the state of the one device's generator."""
    for state in new_states:
        set_rng_state(state)


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


def max_memory_reserved(device=None) -> int:
    """Most bytes taken from the system, of the times somebody asked."""
    return memory_stats(device).get("reserved_bytes.all.peak", 0)


def memory_stats(device=None) -> dict:
    """Current and peak bytes, by the names of :func:`torch.accelerator.memory_stats`."""
    return torch.accelerator.memory_stats(_index(device))


def mem_get_info(device=None) -> tuple[int, int]:
    """Bytes that are free and that there are: of ``MOAI_DEVICE_MEMORY``, or of the machine."""
    from moai import options

    total = options.parse_bytes("MOAI_DEVICE_MEMORY", options.value("device_memory"))
    if total >= 0:
        return max(0, total - memory_allocated()), total
    page = os.sysconf("SC_PAGE_SIZE")
    return os.sysconf("SC_AVPHYS_PAGES") * page, os.sysconf("SC_PHYS_PAGES") * page


def memory_summary(device=None, abbreviated: bool = False) -> str:
    """One line on the memory in use."""
    free, total = mem_get_info(device)
    numbers = {
        "allocated": memory_allocated(),
        "most": max_memory_allocated(),
        "reserved": memory_reserved(),
        "free": free,
        "of": total,
    }
    return "moai: " + ", ".join(f"{name} {size / 2**20:.1f} MiB" for name, size in numbers.items())


def reset_accumulated_memory_stats(device=None) -> None:
    """Nothing is accumulated."""


def reset_peak_memory_stats(device=None) -> None:
    """Start :func:`max_memory_allocated` anew."""
    _C.reset_peak_memory()


def empty_cache() -> None:
    """Give cached memory back to the system."""
    _C.trim_memory()


def __getattr__(name: str):
    if name == "default_generators":
        return (_C.default_generator(),)
    raise AttributeError(f"module 'torch.moai' has no attribute {name!r}")
