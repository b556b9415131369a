"""Every option: its name, environment variable, default and meaning. ``docs/options.md`` is made from this table."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

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
        "cpu",
        "The devices behind `moai`: `cpu:N`, N virtual CPU devices; `cpu` is one. More than one cannot run yet.",
    ),
    Option(
        "device_memory",
        "MOAI_DEVICE_MEMORY",
        "",
        "Most memory that each device may hold, as `2GiB`; empty for no limit.",
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


def parse_devices(variable: str, text: str) -> int:
    """Return how many virtual CPU devices `text` names.

    >>> parse_devices("MOAI_DEVICES", "cpu:4")
    4

    Raises ValueError that names the variable and the valid forms.
    """
    match = re.fullmatch(r"cpu(?::([1-9]\d*))?", text.strip(), re.ASCII)
    if match is None or int(match[1] or 1) > MOST_DEVICES:
        raise ValueError(
            f"moai config: {variable} holds '{text}', which names no devices\n"
            f"  valid: cpu, cpu:1 to cpu:{MOST_DEVICES}"
        )
    return int(match[1] or 1)


def value(name: str) -> str:
    """Return what the environment says of an option, or its default."""
    option = next(option for option in OPTIONS if option.name == name)
    return os.environ.get(option.variable, option.default)


def check() -> None:
    """Refuse variables that begin with MOAI_ and that nothing reads, and devices that steps cannot run on.

    Raises ValueError that names the variable and lists the valid ones.
    """
    known = {option.variable for option in OPTIONS}
    for variable in os.environ:
        if variable.startswith("MOAI_") and not variable.startswith("MOAI_TEST_") and variable not in known:
            raise ValueError(
                f"moai config: {variable} is no option of moai\n  valid: {', '.join(sorted(known))}"
            )
    if parse_devices("MOAI_DEVICES", value("devices")) > 1:
        raise ValueError(
            f"moai config: MOAI_DEVICES holds '{value('devices')}', but steps do not run on several devices yet\n"
            "  valid: cpu, cpu:1"
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
