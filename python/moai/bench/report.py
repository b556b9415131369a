"""What the user sees: log lines, a progress bar on a terminal, the summary, the JSON file."""

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from .errors import RunFailed


def step_line(step: int, steps: int, loss: float, seconds: float, tokens: int) -> str:
    """Return the log line of a finished step.

    >>> step_line(4, 17944, 2.03125, 1.2718, 16384)
    '[Step 4/17944] | Loss: 2.03125 | Duration: 1.27 | Throughput: 12882.53 tokens/sec'
    """
    rate = tokens / seconds
    return f"[Step {step}/{steps}] | Loss: {loss:.5f} | Duration: {seconds:.2f} | Throughput: {rate:.2f} tokens/sec"


def binary_size(count: float) -> str:
    """Return a number of bytes for people.

    >>> binary_size(3 * 1024**2)
    '3.0 MiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} B" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024


class Report:
    """Prints lines as they come; under them, on a terminal, a bar of finished steps."""

    def __init__(self, total: int, done: int = 0, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._bar = None
        if self._stream.isatty():
            self._start_bar(total, done)

    def _start_bar(self, total: int, done: int) -> None:
        try:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        except ImportError:  # the lines say it all
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("steps, left"),
            TimeRemainingColumn(),
            console=Console(file=self._stream),
            transient=True,
        )
        self._task = self._bar.add_task("training", total=total, completed=done)
        self._bar.start()

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def line(self, text: str = "") -> None:
        """Print one line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)

    def doing(self, what: str) -> None:
        """Say on the bar what is going on."""
        if self._bar is not None:
            self._bar.update(self._task, description=what)

    def finished(self, steps: int) -> None:
        """Move the bar to `steps` finished."""
        if self._bar is not None:
            self._bar.update(self._task, completed=steps)


def table(rows: Iterable[tuple[str, str]]) -> str:
    """Return rows of a name and what it is, aligned."""
    return "\n".join(f"{name:<13}{text}" for name, text in rows)


def summary_rows(results: dict) -> list[tuple[str, str]]:
    """Return the rows printed at the end of a run; what was not measured has none."""
    rows = []
    if results["interrupted"]:
        rows.append(
            ("interrupted", f"after step {results['steps_finished']} of {results['settings']['steps']}")
        )
    if results["held_out_loss"] is not None:
        rows.append(("held-out", f"loss {results['held_out_loss']:.5f} on text never trained on"))
    speed = results["throughput"]
    if speed is not None:
        rows.append(
            (
                "throughput",
                f"{speed['tokens_per_second']:.2f} tokens/sec, {speed['step_seconds']:.4f} s a step",
            )
        )
        rows.append(
            (
                "",
                f"median of {speed['intervals']} intervals, {speed['steps_measured']} steps; the first"
                f" {speed['steps_excluded']} left out as warm-up",
            )
        )
    if results["mfu"] is not None:
        rows.append(
            (
                "utilisation",
                f"{100 * results['mfu']:.1f} % of the {results['matmul_flops_per_second'] / 1e9:,.0f} GFLOP/s of"
                f" {results['settings']['dtype']} matrix multiplies in this run",
            )
        )
    memory = [f"host {binary_size(results['peak_host_bytes'])} above start"]
    if results["peak_device_bytes"] is not None:
        memory.insert(0, f"device {binary_size(results['peak_device_bytes'])}")
    rows.append(("peak memory", ", ".join(memory)))
    if results.get("traces") is not None:
        rows.append(("traces", f"{results['traces']} seen, {results['compiles']} compiled"))
    return rows


def write_json(path: str, results: dict) -> None:
    """Write `results` to `path`, whole or not at all."""
    temporary = Path(f"{path}.tmp-{os.getpid()}")
    try:
        temporary.write_text(json.dumps(results, indent=2) + "\n")
        os.replace(temporary, path)
    except OSError as error:
        raise RunFailed(f"cannot write --json {path}: {error.strerror}; name another file") from error
    finally:
        temporary.unlink(missing_ok=True)
