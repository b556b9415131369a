"""``moai plan``: its options, and the report that it prints."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

BAD_INPUT = 2
DOES_NOT_FIT = 1


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``moai plan``."""
    parser.add_argument("--model", required=True, help="llama3-8b, gpt2, …; an unknown one lists them all")
    parser.add_argument("--batch", type=int, required=True, metavar="N", help="sequences in a step")
    parser.add_argument("--seq", type=int, required=True, metavar="N", help="tokens in a sequence")
    parser.add_argument(
        "--cluster", required=True, metavar="NAME", help="DEVICE:PER_HOSTxHOSTS (h100:8x8) or a JSON file"
    )
    parser.add_argument(
        "--pin",
        default="",
        metavar="PINS",
        help="settle a part of the plan: dp=8,tp=2,pp=1,micro=4,zero=1,recompute=full",
    )
    parser.add_argument("--plan", metavar="FILE", help="follow a saved plan, edited or not (docs/plans.md)")
    parser.add_argument("--save", metavar="FILE", help="save the plan, to be edited and given to --plan")
    parser.add_argument(
        "--json", metavar="FILE", help="write the result; - for standard output, and nothing else"
    )


def gib(number: float) -> str:
    """Return bytes in GiB, as a reader wants them."""
    return f"{number / 2**30:.1f} GiB"


def rows(found: dict) -> list[tuple[str, str]]:
    """Return the lines of the report: what, and its value in words."""
    where = found["cluster"]
    memory = where["memory_bytes"]
    peak = found["peak_bytes"]
    out = [
        ("model", f"{found['model']}, {found['parameters']:,} parameters"),
        ("cluster", f"{where['name']}: {where['devices']} x {where['device']}, {gib(memory)} usable on each"),
        ("step", f"{found['batch']} x {found['seq']} tokens"),
    ]
    if found["fits"]:
        out += fitting_rows(found)
    else:
        out.append(("fits", f"no: {gib(peak)} a device at least, {gib(peak - memory)} too many"))
        out.append(("most of it", found["excess"].splitlines()[0] if found["excess"] else "not known"))
        out.append(("would fit", "more devices, a smaller batch, or shorter sequences"))
    if found["no_micro_batches"]:
        out.append(("one pass", f"no micro-batches: {found['no_micro_batches']}"))
    whole = found["kept_whole"]
    out.append(("kept whole", f"{whole['flops']:.2%} of FLOPs, {whole['bytes']:.2%} of bytes"))
    spent = found["plan_seconds"]
    out.append(
        (
            "planned in",
            f"{spent['total']:.1f} s: recording {spent['record']:.1f}, rules {spent['rules']:.1f}, "
            f"bounds {spent['bounds']:.1f}, search {spent['search']:.1f} ({found['tried']} tried, {found['ruled_out']} ruled out)",
        )
    )
    return out


def fitting_rows(found: dict) -> list[tuple[str, str]]:
    """Return the lines of a plan that fits."""
    time, peak, memory = found["time"], found["peak_bytes"], found["cluster"]["memory_bytes"]
    parts = (
        ("computing", time["compute_s"]),
        ("waiting for messages", time["exposed_communication_s"]),
        ("waiting for other stages", time["bubble_s"]),
    )
    out = [
        ("fits", f"yes: {gib(peak)} a device, {gib(memory - peak)} to spare"),
        ("layout", found["layout"]),
        ("step time", f"{found['step_time_s']:.4g} s predicted"),
        ("of it", ", ".join(f"{name} {seconds:.4g} s" for name, seconds in parts if seconds > 0)),
        ("throughput", f"{found['tokens_per_s']:,.0f} tokens/sec predicted"),
        ("memory", ", ".join(f"{name} {gib(size)}" for name, size in found["bytes"].items() if size >= 2**26)),
        ("bound", f"with nothing overlapping {found['sum_s']:.4g} s; no plan below {found['lower_bound']:.4g} s, so at most {found['gap']:.1%} could be gained ({found['mesh_gap']:.1%} with these stages and this mesh)"),
    ]  # fmt: skip
    for group in found["tensors"][:4]:
        out.append((f"{group['role']}s", f"{group['count']} x {group['type']}: {group['placement']}"))
    for other in found["runners_up"][:3]:
        out.append(
            ("instead", f"{other['layout']}: {other['step_time_s']:.4g} s, {gib(other['peak_bytes'])}")
        )
    return out


def run(arguments: argparse.Namespace) -> int:
    """Plan, print, and return the exit status: 0 where it fits, 1 where it does not, 2 for bad input."""
    from . import plan

    try:
        saved = Path(arguments.plan).read_text() if arguments.plan else ""
        found = plan(arguments.model, arguments.batch, arguments.seq, arguments.cluster, arguments.pin, saved)
    except (ValueError, RuntimeError, ImportError, OSError) as error:
        print(f"moai plan: {error}", file=sys.stderr)
        return BAD_INPUT
    if arguments.json == "-":
        print(json.dumps(found, indent=1))
    else:
        for name, value in rows(found):
            print(f"{name:<12} {value}")
        if arguments.json:
            with open(arguments.json, "w") as file:
                json.dump(found, file, indent=1)
    if arguments.save and found["fits"]:
        Path(arguments.save).write_text(found["plan"])
    return 0 if found["fits"] else DOES_NOT_FIT
