"""``moai plan``: its options, and the report that it prints."""

from __future__ import annotations

import argparse
import json
import sys

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
    parser.add_argument("--micro-batches", type=int, metavar="N", help="go through the batch in N parts")
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
    out = [
        ("model", f"{found['model']}, {found['parameters']:,} parameters"),
        ("cluster", f"{where['name']}: {where['devices']} x {where['device']}, {gib(memory)} usable on each"),
        ("step", f"{found['batch']} x {found['seq']} tokens, {found['micro_batches']} micro-batch(es)"),
    ]
    if not found["fits"]:
        over = found["peak_bytes"] - memory
        out.append(("fits", f"no: {gib(found['peak_bytes'])} a device at least, {gib(over)} too many"))
        out.append(("would fit", "more devices, a smaller batch, or shorter sequences"))
    else:
        time = found["time"]
        out += [
            ("fits", f"yes: {gib(found['peak_bytes'])} a device, {gib(memory - found['peak_bytes'])} to spare"),
            ("layout", found["layout"]),
            ("step time", f"{found['step_time_s']:.4g} s predicted: computing {time['compute_s']:.4g} s, communicating {time['communicate_s']:.4g} s"),
            ("throughput", f"{found['tokens_per_s']:,.0f} tokens/sec predicted"),
            ("bound", f"{found['lower_bound']:.4g} s, so at most {max(found['gap'], 0):.2%} could be gained"),
        ]  # fmt: skip
        out += [
            ("instead", f"{c['layout']}: {c['step_time_s']:.4g} s, {gib(c['peak_bytes'])}")
            for c in found["runners_up"][:3]
        ]
    whole = found["kept_whole"]
    out.append(("kept whole", f"{whole['flops']:.2%} of FLOPs, {whole['bytes']:.2%} of bytes"))
    spent = found["plan_seconds"]
    out.append(("planned in", f"{spent['total']:.1f} s: recording {spent['record']:.1f}, rules {spent['rules']:.1f}, search {spent['search']:.1f}"))  # fmt: skip
    out.append(("not yet", found["not_yet"]))
    return out


def run(arguments: argparse.Namespace) -> int:
    """Plan, print, and return the exit status: 0 where it fits, 1 where it does not, 2 for bad input."""
    from . import plan

    try:
        found = plan(
            arguments.model, arguments.batch, arguments.seq, arguments.cluster, arguments.micro_batches
        )
    except (ValueError, RuntimeError, ImportError) as error:
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
    return 0 if found["fits"] else DOES_NOT_FIT
