"""``moai smi``: what every moai process of this user does now: devices, memory, how busy they are, speed, layout.

A process keeps a small file up to date, which is memory that it shares with whoever reads it: see Note [How a process
shows itself] in ``csrc/runtime/status_page.h``, whose layout :func:`read_page` knows. Nothing here asks a process for
anything, so that one that hangs is shown like any other.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import shutil
import struct
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from . import options

MAGIC, VERSION = b"moaismi1", 2
HEAD = struct.Struct("<8sIIqqqqq1024s")
DEVICE = struct.Struct("<7q16s")
# A text that changes while it is read is read again; it changes with a plan, once in minutes.
TRIES = 100

FIRST_LOOK_S = 1.0  # how busy a device is shows only over some time
WATCH_S = 2.0


@dataclass(frozen=True)
class Device:
    """One device of a process. Bytes and nanoseconds; `busy_ns` counts from the process's beginning."""

    name: str
    used_bytes: int
    peak_bytes: int
    reserved_bytes: int
    limit_bytes: int | None
    busy_ns: float


@dataclass(frozen=True)
class Sample:
    """What a process showed at `time_ns` of the monotonic clock."""

    pid: int
    began: int
    steps: int
    tokens: int
    layout: str
    devices: list[Device] = field(default_factory=list)
    time_ns: int = 0


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode(errors="replace")


def read_page(page: bytes | mmap.mmap, now_ns: int) -> Sample | None:
    """Return what `page` shows at `now_ns`; None where it is not, or not yet, a page of this version.

    A device that is in a run counts for as busy in it as it was in those that ended.
    """
    for _ in range(TRIES):
        if len(page) < HEAD.size:
            return None
        magic, version, count, pid, began, steps, tokens, changes, text = HEAD.unpack(page[: HEAD.size])
        if magic != MAGIC or version != VERSION or len(page) < HEAD.size + count * DEVICE.size:
            return None
        if changes % 2 == 0 and HEAD.unpack(page[: HEAD.size])[7] == changes:
            break
    devices = []
    for number in range(count):
        start = HEAD.size + number * DEVICE.size
        used, peak, reserved, limit, busy, waited, since, name = DEVICE.unpack(
            page[start : start + DEVICE.size]
        )
        share = busy / (busy + waited) if busy + waited > 0 else 1.0
        running = share * max(0, now_ns - since) if since else 0.0
        devices.append(
            Device(_text(name), used, peak, reserved, limit if limit >= 0 else None, busy + running)
        )
    return Sample(pid, began, steps, tokens, _text(text), devices, now_ns)


def began(pid: int) -> int | None:
    """Return when the process began, in ticks since the machine did; 0 where that is not told, None if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        try:  # no such file system here
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        return 0
    words = stat[stat.rindex(")") + 2 :].split()
    return None if words[0] in "ZX" else int(words[19])


def folders() -> list[Path]:
    """Return where processes may have their files: where this one would, and where one of another session might."""
    chosen = options.parse_status(options.value("status"))
    if options.value("status"):
        return [Path(chosen)] if chosen else []
    return list(dict.fromkeys(Path(folder) for folder in (chosen, *options.status_folders())))


def samples() -> dict[int, Sample]:
    """Return what each process shows now, by its number. Files of processes that are gone are removed."""
    found = {}
    for folder in folders():
        try:
            paths = [path for path in folder.iterdir() if path.name.isdigit()]
        except OSError:
            continue
        for path in paths:
            try:
                with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as page:
                    sample = read_page(page, time.monotonic_ns())
            except (OSError, ValueError):  # gone meanwhile, or empty: about to be written
                continue
            now = began(int(path.name))
            if now is None or (sample is not None and sample.began not in (0, now)):
                path.unlink(missing_ok=True)
            elif sample is not None:
                found[sample.pid] = sample
    return found


def command_of(pid: int) -> str:
    """Return the process's command line, in one line."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return "?"
    text = " ".join(word.decode(errors="replace") for word in words)
    return "".join(letter if letter.isprintable() else " " for letter in text)


def rows_of(before: dict[int, Sample], after: dict[int, Sample]) -> list[dict]:
    """Return what ``--json`` prints: the processes of `after`, with what happened to them since `before`."""
    rows = []
    for pid, sample in sorted(after.items()):
        earlier = before.get(pid)
        known = earlier is not None and earlier.began == sample.began and earlier.time_ns < sample.time_ns
        seconds = (sample.time_ns - earlier.time_ns) * 1e-9 if known else None
        devices = []
        for number, device in enumerate(sample.devices):
            busy = None
            if known and number < len(earlier.devices):
                share = (device.busy_ns - earlier.devices[number].busy_ns) * 1e-9 / seconds
                busy = min(1.0, max(0.0, share))
            devices.append(
                {
                    "name": device.name,
                    "used_bytes": device.used_bytes,
                    "peak_bytes": device.peak_bytes,
                    "reserved_bytes": device.reserved_bytes,
                    "limit_bytes": device.limit_bytes,
                    "busy": busy,
                }
            )
        rows.append(
            {
                "pid": pid,
                "command": command_of(pid),
                "steps": sample.steps,
                "steps_per_second": max(0, sample.steps - earlier.steps) / seconds if known else None,
                "tokens_per_second": (
                    max(0, sample.tokens - earlier.tokens) / seconds if known and sample.tokens else None
                ),
                "layout": sample.layout or ("one device" if len(devices) == 1 else "not planned yet"),
                "devices": devices,
            }
        )
    return rows


def size(count: int | None) -> str:
    """Return bytes as a person reads them.

    >>> size(3 * 2**20), size(None)
    ('3.0 MiB', 'none')
    """
    if count is None:
        return "none"
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count / 2**10:.1f} KiB"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


BAR = 10


def lines_of(rows: list[dict], width: int) -> list[str]:
    """Return the report, no line wider than `width`."""
    if not rows:
        return ["no process of yours uses moai now"]
    lines = []
    for row in rows:
        speed = [] if row["tokens_per_second"] is None else [f"{row['tokens_per_second']:,.1f} tokens/sec"]
        if row["steps_per_second"] is not None:
            speed.append(f"{row['steps_per_second']:.2f} steps/sec")
        speed.append(f"{row['steps']:,} steps")
        lines += [
            "" if lines else None,
            f"{row['pid']}  {row['command']}",
            f"  {', '.join(speed)}",
            f"  {row['layout']}",
            f"  {'device':<8}{'used':>11}{'peak':>11}{'limit':>11}   busy",
        ]
        for device in row["devices"]:
            busy = device["busy"]
            filled = round(BAR * (busy or 0))
            bar = "?" if busy is None else f"{100 * busy:3.0f} %  {'#' * filled}{'.' * (BAR - filled)}"
            used, peak, limit = (size(device[name]) for name in ("used_bytes", "peak_bytes", "limit_bytes"))
            lines.append(f"  {device['name']:<8}{used:>11}{peak:>11}{limit:>11}  {bar}")
    return [_cut(line, width) for line in lines if line is not None]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the command's options."""
    parser.add_argument(
        "--watch", action="store_true", help=f"look again every {WATCH_S:g} seconds until Ctrl-C"
    )
    parser.add_argument(
        "-l", "--loop", type=float, metavar="SECONDS", help="look again every so many seconds"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, one line each time")


def run(arguments: argparse.Namespace) -> int:
    """Look once, or until Ctrl-C, and return the exit status."""
    if arguments.loop is not None and not 0 < arguments.loop < float("inf"):
        print(f"moai smi: --loop is {arguments.loop:g}: give seconds above 0", file=sys.stderr)
        return 2
    period = arguments.loop or (WATCH_S if arguments.watch else None)
    in_place = sys.stdout.isatty() and not arguments.json
    before = samples()
    try:
        time.sleep(min(FIRST_LOOK_S, period or FIRST_LOOK_S) if before or period else 0)
        while True:
            after = samples()
            rows = rows_of(before, after)
            if arguments.json:
                print(json.dumps(rows), flush=True)
            else:
                terminal = shutil.get_terminal_size()
                lines = lines_of(rows, terminal.columns)
                if period and in_place:
                    # Home, then the rest of each line and of the screen is cleared: nothing flickers.
                    shown = [time.strftime("%H:%M:%S"), *lines][: terminal.lines - 1]
                    print(
                        "\x1b[H" + "".join(f"{line}\x1b[K\n" for line in shown) + "\x1b[J", end="", flush=True
                    )
                else:
                    print("\n".join(lines) + ("\n" if period else ""), flush=True)
            if not period:
                return 0
            before = after
            time.sleep(period)
    except KeyboardInterrupt:
        return 0 if period else 130
