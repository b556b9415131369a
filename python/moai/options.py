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
        "The devices behind `moai`: `cpu` or `cpu:1`, one virtual CPU device.",
    ),
    Option(
        "device_memory",
        "MOAI_DEVICE_MEMORY",
        "",
        "Most memory that a device may hold, as `2GiB`; empty for no limit.",
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


def value(name: str) -> str:
    """Return what the environment says of an option, or its default."""
    option = next(option for option in OPTIONS if option.name == name)
    return os.environ.get(option.variable, option.default)


def check() -> None:
    """Refuse variables that begin with MOAI_ and that nothing reads, and device lists that do not exist.

    Raises ValueError that names the variable and lists the valid ones.
    """
    known = {option.variable for option in OPTIONS}
    for variable in os.environ:
        if variable.startswith("MOAI_") and not variable.startswith("MOAI_TEST_") and variable not in known:
            raise ValueError(
                f"moai config: {variable} is no option of moai\n  valid: {', '.join(sorted(known))}"
            )
    devices = value("devices")
    if devices not in ("cpu", "cpu:1"):
        raise ValueError(
            f"moai config: MOAI_DEVICES holds '{devices}', which this version cannot use\n  valid: cpu, cpu:1"
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
