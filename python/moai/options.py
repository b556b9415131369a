"""Every option: its name, environment variable, default and meaning. ``docs/options.md`` is made from this table."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

LOG_TOPICS = ("cut", "compile", "trace", "at_once", "memory")


@dataclass(frozen=True)
class Option:
    """One row of the table."""

    name: str
    variable: str
    default: str
    meaning: str


OPTIONS = (
    Option(
        "log", "MOAI_LOG", "", f"Comma-separated topics to print on stderr: all, {', '.join(LOG_TOPICS)}."
    ),
    Option(
        "devices",
        "MOAI_DEVICES",
        "",
        "The devices behind `moai`: `cuda`, all visible GPUs, `cuda:0`, `cuda:0-3`; `cpu:N`, N virtual CPU devices, `cpu` "
        "is one. Empty for all GPUs where there are any, else `cpu`.",
    ),
    Option(
        "device_memory",
        "MOAI_DEVICE_MEMORY",
        "",
        "Most memory that each device may hold, as `2GiB`; empty for no limit.",
    ),
    Option(
        "plan",
        "MOAI_PLAN",
        "fastest",
        "How several devices share a step: `fastest`, pins as `dp=2,tp=2` (see `moai plan --pin`; one device takes such as "
        "`micro=4,offload=activations`), `random:SEED` (any valid plan), or the path of a saved plan (`moai plan --save`).",
    ),
    Option(
        "cache",
        "MOAI_CACHE",
        "",
        "Where plans and compiled kernels are kept for later processes; empty for `moai` in the user's caches (`$XDG_CACHE_HOME`, or "
        "`~/.cache`), `off` for nowhere.",
    ),
    Option(
        "chunk",
        "MOAI_CHUNK",
        "256MiB",
        "A loss over a vocabulary whose logits, or what is made of them, are larger goes over its tokens in chunks of at most so much; "
        "`off` for never.",
    ),
    Option(
        "status",
        "MOAI_STATUS",
        "",
        "Where `moai smi` finds this process; empty for `moai` in the user's `$XDG_RUNTIME_DIR`, or else "
        "`/tmp/moai-UID`; `off` for nowhere.",
    ),
    Option(
        "profile",
        "MOAI_PROFILE",
        "",
        "Where `moai calibrate` keeps what it measured, for the plans of such devices and for `here:N`; empty for `moai/machine.json` among the user's settings.",
    ),
)

_UNITS = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def parse_bytes(variable: str, text: str) -> int:
    """Return the bytes that `text` names; -1 when it is empty.

    >>> parse_bytes("MOAI_DEVICE_MEMORY", "1.5GiB")
    1610612736

    Raises ValueError that names the variable and the valid forms.
    """
    if not text:
        return -1
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2] not in _UNITS:
        raise ValueError(
            f"moai config: {variable} holds '{text}', which is no size\n"
            f"  valid: a number and one of {', '.join(unit for unit in _UNITS if unit)}, as 2GiB"
        )
    return int(float(match[1]) * _UNITS[match[2]])


MOST_DEVICES = 1024


@dataclass(frozen=True)
class Devices:
    """Which devices an option names, as the engine takes it."""

    kind: str  # empty: whatever there is besides the CPU, else the CPU
    count: int = 1  # of virtual CPU devices
    indices: tuple[int, ...] = ()  # of GPUs, among the visible ones; empty: all


def parse_devices(variable: str, text: str) -> Devices:
    """Return the devices that `text` names.

    >>> parse_devices("MOAI_DEVICES", "cpu:4").count
    4
    >>> parse_devices("MOAI_DEVICES", "cuda:1-3").indices
    (1, 2, 3)

    Raises ValueError that names the variable and the valid forms.
    """
    text = text.strip()
    if text in ("", "cuda"):
        return Devices(text)
    cpu = re.fullmatch(r"cpu(?::([1-9]\d*))?", text, re.ASCII)
    if cpu is not None and int(cpu[1] or 1) <= MOST_DEVICES:
        return Devices("cpu", count=int(cpu[1] or 1))
    cuda = re.fullmatch(r"cuda:(\d{1,4})(?:-(\d{1,4}))?", text, re.ASCII)
    if cuda is not None and int(cuda[1]) <= int(cuda[2] or cuda[1]) < MOST_DEVICES:
        return Devices("cuda", indices=tuple(range(int(cuda[1]), int(cuda[2] or cuda[1]) + 1)))
    raise ValueError(
        f"moai config: {variable} holds '{text}', which names no devices\n"
        f"  valid: cpu, cpu:1 to cpu:{MOST_DEVICES}, cuda, cuda:0, cuda:0-3"
    )


def parse_plan(variable: str, text: str) -> str:
    """Return what the engine reads of a plan: its pins, or a saved plan's JSON.

    >>> parse_plan("MOAI_PLAN", "random:7")
    'random=7'

    Raises ValueError that names the variable where a file cannot be read.
    """
    text = text.strip()
    if not text.endswith(".json"):
        return re.sub(r"^random:(\d+)$", r"random=\1", text)
    try:
        return Path(text).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(
            f"moai config: {variable} names a plan that cannot be read: {error}\n"
            "  valid: fastest, pins as dp=2,tp=2, random:SEED, or the path of a file made by moai plan --save"
        ) from error


def parse_cache(text: str) -> str:
    """Return the folder of what is kept between processes, empty for none: one that cannot be written is no mistake.

    >>> parse_cache("off")
    ''
    """
    text = text.strip()
    if text == "off":
        return ""
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    folder = os.path.expanduser(text or os.path.join(caches, "moai"))
    return "" if folder.startswith("~") else os.path.abspath(folder)


def status_folders() -> list[str]:
    """Return where a process of this user can show itself, the best first."""
    candidates = [os.environ.get("XDG_RUNTIME_DIR"), f"/run/user/{os.getuid()}"]
    sessions = [folder for folder in candidates if folder and os.access(folder, os.W_OK)]
    return [os.path.join(folder, "moai") for folder in sessions] + [f"/tmp/moai-{os.getuid()}"]


def parse_status(text: str) -> str:
    """Return the folder in which ``moai smi`` finds this process, empty for none.

    >>> parse_status("off")
    ''
    """
    text = text.strip()
    if text == "off":
        return ""
    return os.path.abspath(text) if text else status_folders()[0]


def parse_chunk(text: str) -> int:
    """Return the bytes that a chunk may have, -1 for no chunks.

    >>> parse_chunk("64MiB")
    67108864
    """
    return -1 if text.strip() == "off" else parse_bytes("MOAI_CHUNK", text)


_overridden: dict[str, str] = {}


def value(name: str) -> str:
    """Return what :func:`moai.configure` or else the environment says of an option, or its default."""
    option = next(option for option in OPTIONS if option.name == name)
    return _overridden.get(name, os.environ.get(option.variable, option.default))


def profile_path() -> Path:
    """Where the profile is kept: MOAI_PROFILE, or moai/machine.json among the user's settings."""
    named = value("profile")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME", Path.home() / ".config")) / "moai" / "machine.json"


def engine_cluster(devices: Devices) -> str:
    """Return what the engine's devices reach as JSON, empty where it was not measured."""
    if not profile_path().is_file():
        return ""
    from .machine import measured_cluster  # which an import of torch need not wait for

    return measured_cluster(devices)


def override(values: dict[str, str]) -> None:
    """Let :func:`value` return these, by name."""
    _overridden.update(values)


def parse_engine(changed: dict[str, str]) -> tuple[str, int, tuple[int, ...], int, str, str, str, str, int]:
    """Return what the engine is made of, in its order: the devices' kind, count and indices, the bytes that each may
    hold, the plan, the folder of what is kept, the folder of `moai smi`, what the devices reach and the bytes of a chunk.

    `changed`: by name, what stands in the place of :func:`value`. Raises ValueError as the parsers do.
    """

    def text(name: str) -> str:
        return changed.get(name, value(name))

    devices = parse_devices("MOAI_DEVICES", text("devices"))
    return (
        devices.kind,
        devices.count,
        devices.indices,
        parse_bytes("MOAI_DEVICE_MEMORY", text("device_memory")),
        parse_plan("MOAI_PLAN", text("plan")),
        parse_cache(text("cache")),
        parse_status(text("status")),
        engine_cluster(devices),
        parse_chunk(text("chunk")),
    )


def check() -> None:
    """Refuse variables that begin with MOAI_ and that nothing reads.

    Raises ValueError that names the variable and lists the valid ones.
    """
    known = {option.variable for option in OPTIONS}
    for variable in os.environ:
        if variable.startswith("MOAI_") and not variable.startswith("MOAI_TEST_") and variable not in known:
            raise ValueError(
                f"moai config: {variable} is no option of moai\n  valid: {', '.join(sorted(known))}"
            )


def markdown() -> str:
    """Return ``docs/options.md``."""
    rows = [
        f"| `{o.name}` | `{o.variable}` | {f'`{o.default}`' if o.default else '(empty)'} | {o.meaning} |"
        for o in OPTIONS
    ]
    return "\n".join(
        ["# Options", "", "| name | variable | default | meaning |", "|---|---|---|---|", *rows, ""]
    )
