"""What is said of a script that gave no step to plan: what happened, where, and what would work."""

from __future__ import annotations

import os
import traceback

# Lists of lines are for reading.
MOST_READS = 20
# Of exceptions that libraries raise where something was to be fetched: parts of their names, and of their texts.
_NETWORK_NAMES = ("Connect", "Offline", "HTTP", "URLError", "gaierror", "LocalEntryNotFound", "Timeout")
_NETWORK_TEXTS = ("download", "connection", "offline mode")
_CUDA_TEXTS = ("NVIDIA", "CUDA")
USAGE = 2


class ScriptFailed(ValueError):
    """The script gave no step to plan; the message says why, and what would work."""


def failure(error: BaseException, script: str, reads: dict[str, int]) -> ScriptFailed:
    """What a script that ended by an exception is refused with. `reads`: user's line -> values read there."""
    where, first = _where(error, script), chain(error)
    if any(text in str(error) for text in _CUDA_TEXTS):
        return ScriptFailed(
            f"the script asks for CUDA at {where}: {_told(error)}\n"
            '  would work: the device "moai" instead, often an argument of its own: -- --device moai'
        )
    if any(_is_network(one) for one in first):
        return ScriptFailed(
            f"the script fetches something at {where}, which could not be had: {_told(first[-1])}\n"
            "  would work: the data or model where the script looks for it; a dry run loads as usual"
        )
    if isinstance(error, FileNotFoundError):
        named = f"needs {error.filename} at {where}, which is not there"
        if not error.filename:
            named = f"needs a file at {where} that is not there: {str(error).partition(chr(10))[0]}"
        return ScriptFailed(
            f"the script {named}\n"
            "  would work: the data where the script looks for it (a dry run loads as usual), or made-up data of the same shape"
        )
    if isinstance(error, ModuleNotFoundError):
        return ScriptFailed(f"the script needs a module: {error} ({where})\n  would work: to install it")
    if isinstance(error, ImportError):
        return ScriptFailed(
            f"the script could not import at {where}: {error}\n"
            "  would work: the libraries, and the versions of them, that the script was written for"
        )
    told = _told(error) if first[-1] is error else f"{_told(error)} (from {_told(first[-1])})"
    return ScriptFailed(
        f"the script stopped at {where} before it had made two steps: {told}\n{_listed(reads)}"
        "  would work: a script that runs on moai as it is"
    )


def no_step(status: object, reads: dict[str, int]) -> ScriptFailed:
    """What a script that ended by itself is refused with. `status`: None, or what it gave to sys.exit."""
    ended = "the script ended"
    if isinstance(status, str):
        ended += f" ({status.strip().partition(chr(10))[0]})"
    elif status is not None:
        ended += f" (exit status {status})"
    would = 'a script that moves its model to the device "moai", and updates it at least twice'
    if status == USAGE:
        would = "the arguments that the script wants, after --"
    return ScriptFailed(f"{ended} without a step on moai\n{_listed(reads)}  would work: {would}")


def on_host() -> ScriptFailed:
    """What a script is refused with whose optimizers step on the host alone."""
    return ScriptFailed(
        "the script trains on the CPU, and makes no step on moai\n"
        '  would work: its model on the device "moai", often by an argument of its own, after --: --device moai, --accel'
    )


def chain(error: BaseException) -> list[BaseException]:
    """An exception and what it came from, the root cause last."""
    found: list[BaseException] = []
    step: BaseException | None = error
    while step is not None and step not in found:
        found.append(step)
        step = step.__cause__ or (None if step.__suppress_context__ else step.__context__)
    return found


def _told(error: BaseException) -> str:
    """Its type and the first line that says something."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _where(error: BaseException, script: str) -> str:
    """The script's own line in a traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename == script]
    if own:
        return f"{os.path.basename(script)}:{own[-1].lineno}"
    if isinstance(error, SyntaxError) and error.filename == script:
        return f"{os.path.basename(script)}:{error.lineno}"
    return os.path.basename(script)


def _is_network(error: BaseException) -> bool:
    if any(name in type(error).__name__ for name in _NETWORK_NAMES):
        return True
    return isinstance(error, OSError | RuntimeError) and any(t in str(error).lower() for t in _NETWORK_TEXTS)


def _listed(reads: dict[str, int]) -> str:
    if not reads:
        return ""
    lines = ", ".join(list(reads)[:MOST_READS])
    return f"  it read values at {lines}: all zeros in a dry run, so that what it decides by them may go another way\n"
