"""Clocks and gauges: the time of a step, the rate of a matrix multiply, the peak of memory.

Note [When a step is finished]
A device may run later than the script: when ``optimizer.step()`` returns, nothing need have happened yet.
A step counts as finished when a host read of something it produced, here its loss, returns. So a duration
is the interval between two such reads divided by the number of steps between them, and nothing else is.

A device may give out the loss before the rest of its step has run. Between two reads lies a whole number
of steps all the same; between a drained device and a read may lie less. Where the loop pauses, to evaluate
or to save, the device is drained before the pause, and an interval counts towards the throughput only if both
its ends are reads or both are drains.
"""

import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

# Intervals that hold one of the first steps do not count: they pay for caches, plans and compilers.
WARMUP_STEPS = 3


def drain(device: torch.device) -> None:
    """Wait until `device` has run everything that it was asked for."""
    synchronize = getattr(torch.get_device_module(device), "synchronize", None)
    if synchronize is not None:
        synchronize()


@dataclass(frozen=True)
class Interval:
    """The steps after `first` up to `last`, and how long one of them took."""

    first: int
    last: int
    seconds: float
    whole: bool


class StepClock:
    """Times intervals between finished steps; see Note [When a step is finished]."""

    def __init__(self) -> None:
        self.intervals: list[Interval] = []

    def start(self, step: int) -> None:
        """Begin at `step`, with the device drained."""
        self._step, self.from_drained, self._time = step, True, time.perf_counter()

    def finish(self, step: int, drained: bool = False) -> float:
        """Return the seconds of one step since the last fence, and begin the next interval here."""
        now = time.perf_counter()
        seconds = (now - self._time) / (step - self._step)
        self.intervals.append(Interval(self._step, step, seconds, self.from_drained == drained))
        self._step, self.from_drained, self._time = step, drained, now
        return seconds

    def measured(self) -> list[Interval]:
        """Return the intervals that count: whole and after warm-up, or all if there are none such."""
        begin = self.intervals[0].first + WARMUP_STEPS if self.intervals else 0
        whole = [interval for interval in self.intervals if interval.whole]
        return [interval for interval in whole if interval.first >= begin] or whole or self.intervals


def matmul_rate(device: torch.device, dtype: torch.dtype, budget_seconds: float = 0.5) -> float:
    """Return the best FLOP/s seen of a square matrix multiply on `device`.

    Multiplies are chained and the whole result is read, so that none can be left out.
    """
    best, size, end = 0.0, 512, time.perf_counter() + budget_seconds
    while True:
        generator = torch.Generator().manual_seed(0)
        right = (torch.randn(size, size, generator=generator) * size**-0.5).to(dtype).to(device)
        for _ in range(3):
            chain, left = 4, right
            begin = time.perf_counter()
            for _ in range(chain):
                left = left @ right
            left.amax().item()
            took = time.perf_counter() - begin
            best = max(best, 2 * size**3 * chain / took)
        if took > 0.05:  # large enough to hide the launch and the read
            if time.perf_counter() > end:
                return best
        elif size < 8192:
            size *= 2
        else:
            return best


class PeakMemory:
    """The most memory in use since it was made, on the host and, where it is known, on the device."""

    def __init__(self, device: torch.device) -> None:
        self._module = torch.get_device_module(device)
        reset = getattr(self._module, "reset_peak_memory_stats", None)
        if reset is not None:
            reset()
        try:  # Linux starts the high-water mark afresh; elsewhere it covers the process's whole life
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            pass
        self._before = _resident_bytes("VmRSS") or _resident_bytes("VmHWM")

    def host_bytes(self) -> int:
        """Return by how much the process grew at its peak."""
        return max(0, _resident_bytes("VmHWM") - self._before)

    def device_bytes(self) -> int | None:
        """Return the device's own figure, or None if it keeps none."""
        read = getattr(self._module, "max_memory_allocated", None)
        return int(read()) if read is not None else None


def _resident_bytes(field: str) -> int:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    if field == "VmRSS":
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
