"""``moai plan``: its options, and what it does with them."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from ..options import parse_bytes

BAD_INPUT = 2
DOES_NOT_FIT = 1
# Plans that were found this fast are tried on other clusters too, for advice.
QUICK_SECONDS = 10.0
MOST_DOUBLINGS = 5


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``moai plan``."""
    parser.add_argument(
        "script", nargs="?", metavar="SCRIPT.py", help="a script to run dry; its arguments follow --"
    )
    parser.add_argument(
        "--model", help="instead of a script: llama3-8b, gpt2, …; an unknown one lists them all"
    )
    parser.add_argument("--batch", type=int, metavar="N", help="of a model: sequences in a step")
    parser.add_argument("--seq", type=int, metavar="N", help="of a model: tokens in a sequence")
    parser.add_argument(
        "--cluster", required=True, metavar="NAME", help="DEVICE:PER_HOSTxHOSTS (h100:8x8) or a JSON file"
    )
    parser.add_argument("--memory", metavar="SIZE", help="of each device, if not the usual: 80GiB")
    parser.add_argument(
        "--pin",
        default="",
        metavar="PINS",
        help="settle a part of the plan: dp=8,tp=2,pp=1,micro=4,zero=1,recompute=full",
    )
    parser.add_argument("--plan", metavar="FILE", help="follow a saved plan, edited or not (docs/plans.md)")
    parser.add_argument("--save", metavar="FILE", help="save the plan, to be edited and given to --plan")
    parser.add_argument(
        "--compare", action="append", default=[], metavar="KEY=VALUE",
        help="another plan beside this one: cluster=h200:8, batch=64, pin=tp=8; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--sweep",
        metavar="KEY=A,B,…",
        help="batch=8,16,32 of a model; of a script, any argument of its own (--KEY=A)",
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write the result; - for standard output, and nothing else"
    )
    parser.add_argument("--html", metavar="FILE", help="write the report as one page")
    parser.add_argument("--png", metavar="FILE", help="write the report's picture (needs matplotlib)")


class _Question:
    """What is asked, and the variations of it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        from . import BadPlanInput

        if bool(arguments.script) == bool(arguments.model):
            raise BadPlanInput("plan either a script (moai plan train.py --cluster …) or a --model")
        if arguments.model and (arguments.batch is None or arguments.seq is None):
            raise BadPlanInput("--model needs --batch and --seq: sequences in a step, and tokens in each")
        if arguments.script and (arguments.batch is not None or arguments.seq is not None):
            raise BadPlanInput("a script has its own batch: give it as the script's argument, after --")
        self.script, self.arguments = arguments.script, list(arguments.after)
        self.model, self.batch, self.seq = arguments.model, arguments.batch, arguments.seq
        self.cluster, self.pin = arguments.cluster, arguments.pin
        self.memory = 0 if arguments.memory is None else parse_bytes("--memory", arguments.memory)
        if arguments.memory is not None and self.memory < 1:
            raise BadPlanInput(
                f"--memory {arguments.memory} must be positive\n  would work: --memory 80GiB, or leave it out"
            )
        self.recorded: dict = {}  # by the script's arguments
        self.saved = _saved(arguments.plan) if arguments.plan else ""

    def ask(self, **changed) -> dict:
        """Plan, with some of it changed."""
        from . import plan, plan_recorded, record_script

        ask = {**vars(self), **changed}
        cluster = with_memory(ask["cluster"], self.memory) if self.memory else ask["cluster"]
        if not self.script:
            return plan(self.model, ask["batch"], ask["seq"], cluster, ask["pin"], ask["saved"])
        given = tuple(ask["arguments"])
        if given not in self.recorded:
            self.recorded[given] = record_script(self.script, list(given))
        return plan_recorded(self.recorded[given], cluster, ask["pin"], ask["saved"])

    def changed(self, option: str, text: str) -> dict:
        """What `KEY=VALUE` of an option changes."""
        from . import BadPlanInput

        key, _, value = text.partition("=")
        allowed = ("cluster", "pin") if self.script else ("cluster", "pin", "batch", "seq")
        if key not in allowed or not value:
            would = ", ".join(f"{k}=…" for k in allowed)
            own = f"; --sweep {key}=… for an argument of the script's own" if self.script and value else ""
            raise BadPlanInput(f"{option} {text} cannot be\n  would work: {would}{own}")
        return {key: _whole(text, value) if key in ("batch", "seq") else value}

    def variations(self, compare: list[str], sweep: str) -> list[tuple[str, dict]]:
        """What is asked beside: a name of each, and what it changes. A mistake in one is known before anything is planned."""
        from . import BadPlanInput

        key, _, listed = sweep.partition("=")
        values = [v for v in listed.split(",") if v]
        if sweep and not (key and values):
            raise BadPlanInput(
                f"--sweep {sweep} has no values\n  would work: --sweep {key or 'batch'}=8,16,32"
            )
        found = [(text, self.changed("--compare", text)) for text in compare]
        for value in values:
            # As one word, which every parser of arguments takes.
            own = f"{key if key.startswith('-') else '--' + key}={value}"
            text = f"{key}={value}"
            changes = {"arguments": [*self.arguments, own]} if self.script else self.changed("--sweep", text)
            found.append((text, changes))
        return found

    def beside(self, changes: dict) -> dict:
        """Plan with these changes; what cannot be planned is told, and takes nothing from the others."""
        try:
            return self.ask(**changes)
        except (ValueError, RuntimeError) as error:
            return {"fits": False, "refused": re.sub(r"^moai \w+: ", "", str(error))}


def _saved(path: str) -> str:
    from . import BadPlanInput

    try:
        return Path(path).read_text()
    except FileNotFoundError:
        what = "does not exist"
    except (OSError, UnicodeDecodeError) as error:
        what = f"cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}"
    raise BadPlanInput(f"plan file {path} {what}\n  would work: a file that moai plan --save wrote")


def _whole(text: str, value: str) -> int:
    from . import BadPlanInput

    if not value.isdigit() or int(value) < 1:
        raise BadPlanInput(f"{text}: {value} is not a whole number from 1 up")
    return int(value)


def with_memory(cluster: str, memory: int) -> str:
    """The cluster as JSON, with that many bytes on each device."""
    from .. import _C
    from ..machine import resolved

    described = json.loads(_C.cluster(resolved(cluster).text)["json"])
    for kind in described["kinds"]:
        kind["memory_bytes"] = memory
    return json.dumps(described)


def doubled(cluster: str) -> str | None:
    """The named cluster with twice as many hosts (or devices, of one host that is not full); None of a file."""
    match = re.fullmatch(r"([^:/{]+):(\d+)(?:x(\d+))?", cluster)
    if match is None:
        return None
    device, per_host, hosts = match[1], int(match[2]), int(match[3] or 1)
    return f"{device}:{per_host * 2}" if hosts == 1 and per_host < 8 else f"{device}:{per_host}x{hosts * 2}"


def advise(question: _Question, found: dict) -> dict[str, str]:
    """What more devices would bring, tried and not guessed. Nothing where a layout is pinned or planning is slow."""
    from .report import rate, what_would_fit

    larger = doubled(question.cluster)
    spent = found["plan_seconds"]
    if question.pin or question.saved or larger is None or spent["bounds"] + spent["search"] > QUICK_SECONDS:
        return {}
    if found["fits"]:
        other = question.ask(cluster=larger)
        if not other["fits"]:
            return {}
        return {
            "2x devices": f"{larger}: {rate(other)}, {found['step_time_s'] / other['step_time_s']:.2f} times as fast"
        }
    for _ in range(MOST_DOUBLINGS):
        other = question.ask(cluster=larger)
        if other["fits"]:
            return {"would fit": what_would_fit(found, f"{larger} ({rate(other)})")}
        larger = doubled(larger) or ""
    return {}


def run(arguments: argparse.Namespace) -> int:
    """Plan, print, and return the exit status: 0 where it fits, 1 where it does not, 2 for bad input."""
    from .report import comparison, report

    quiet = arguments.json == "-"
    try:
        question = _Question(arguments)
        variations = question.variations(arguments.compare, arguments.sweep or "")
        found = question.ask()
        found["advice"] = advise(question, found)
        beside = [(name, question.beside(changes)) for name, changes in variations]
        found["compared"] = [{"change": name, **other} for name, other in beside]
        found["swept"] = [name for name, _ in beside[len(arguments.compare) :]]
        _write(arguments, found)
    except (ValueError, RuntimeError, ImportError, OSError) as error:
        _leave_the_scripts_line(arguments)
        print(f"moai plan: {str(error).removeprefix('moai plan: ')}", file=sys.stderr)
        return BAD_INPUT
    if quiet:
        print(_json(found))
    else:
        _leave_the_scripts_line(arguments)
        print(report(found))
        if beside:
            print("\n" + comparison([("as asked", found), *beside]))
    return 0 if found["fits"] else DOES_NOT_FIT


def _leave_the_scripts_line(arguments: argparse.Namespace) -> None:
    """A script may have been stopped within its line: a progress bar has no end of its own."""
    if arguments.script:
        print(file=sys.stderr, flush=True)


def _json(found: dict) -> str:
    """The result as JSON, which has no infinity."""
    return json.dumps(found, indent=1, allow_nan=False)


def _write(arguments: argparse.Namespace, found: dict) -> None:
    if arguments.json and arguments.json != "-":
        Path(arguments.json).write_text(_json(found) + "\n")
    if arguments.html:
        from .page import page

        Path(arguments.html).write_text(page(found))
    if arguments.png:
        from .picture import save_png

        save_png(found, arguments.png)
    if arguments.save and found["fits"]:
        Path(arguments.save).write_text(found["plan"])
