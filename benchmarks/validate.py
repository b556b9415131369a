"""Predictions against published training runs.

$ python benchmarks/validate.py published_runs.csv --write docs/validation.md
$ python benchmarks/validate.py other_runs.csv --json scores.json --plot scatter.png

Each row's model is built from its dimensions, its step is recorded with nothing executed, and planned with the row's
layout pinned, with the constants of its GPU and family of software in benchmarks/constants.json; `--fit` makes that
file anew from the scored rows given.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import fields
from pathlib import Path

import fitting
import scores
from published import Constants, NotPredicted, Prediction, Row, predict, read_rows
from validation_report import markdown, plot, text

# How often rows are planned while constants are fitted.
PLANNED = 7
KNOWN = Path(__file__).with_name("constants.json")


def predict_one(row: Row, constants: Constants, cache: Path) -> list[Prediction] | str:
    """In a process of its own: the predictions, or why there is none."""
    try:
        if row.measured is None:
            return "its step time or batch is not stated"
        return predict(row, constants, cache)
    except NotPredicted as why:
        return str(why)


def predict_all(
    rows: list[Row], constants: dict[str, Constants], cache: Path, workers: int, title: str
) -> tuple[list[fitting.Sample], dict[str, str]]:
    """Predictions of all rows, and by row why it has none. Says how far it is: in place on a terminal."""
    samples, missing = {}, {}
    start, is_terminal = time.monotonic(), sys.stderr.isatty()
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        asked = {pool.submit(predict_one, row, constants[row.id], cache): row for row in rows}
        for done, future in enumerate(as_completed(asked), 1):
            row, found = asked[future], future.result()
            if isinstance(found, str):
                missing[row.id] = found
            else:
                samples[row.id] = fitting.Sample(row, found, constants[row.id])
            line = f"{title}: {done} of {len(rows)} rows, {time.monotonic() - start:.0f} s"
            if is_terminal:
                print(f"\r{line}\x1b[K", end="\n" if done == len(rows) else "", file=sys.stderr, flush=True)
            elif done % 20 == 0 or done == len(rows):
                print(line, file=sys.stderr, flush=True)
    return [samples[row.id] for row in rows if row.id in samples], missing


# What constants predictions are scored with: out of sample first.
VIEWS = {"group left out": "group", "family left out": "family", "fitted": ""}


def result(rows: list[Row], samples: list[fitting.Sample], missing: dict[str, str], known: dict) -> dict:
    """Everything that is reported, as plain values."""
    errors: dict[str, dict[str, float]] = {view: {} for view in VIEWS}
    peaks, lines = {}, []
    for sample in samples:
        row, table = sample.row, fitting.Table([sample])
        for view, without in VIEWS.items():
            used = fitting.constants_of(row, known, without) if without else sample.used
            errors[view][row.id] = float(table.errors(used)[0])
        best = min(sample.predictions, key=lambda p: abs(math.log(p.seconds / row.measured)))
        peaks[row.id] = best.peak_bytes
        lines.append(
            {
                "id": row.id, "gpu": row.gpu, "family": row.family, "group": row.group, "tier": row.tier, "split": row.split,
                "core": row.core, "gpus": int(row.gpus), "measured_s": row.measured, "predicted_s": best.seconds,
                "errors": {view: math.exp(errors[view][row.id]) - 1 for view in VIEWS},
                "recompute": best.recompute, "layout": best.layout, "peak_gib": best.peak_bytes / 2**30,
                "memory_gib": float(row.memory_gib) if row.memory_gib else None, "parts": best.parts,
            }
        )  # fmt: skip
    scored = [s.row for s in samples]
    kinds = defaultdict(dict)
    for key in sorted({(r.gpu, r.family) for r in scored}):
        own = [r for r in scored if (r.gpu, r.family) == key and r.split in scores.SCORED]
        kinds[" ".join(key)] = {view: scores.quantiles(scores.by_group(own, errors[view])) for view in VIEWS}
    own_keys = {f"{r.gpu} {r.family}" for r in scored}
    return {
        "rows": len(rows),
        "scores": {
            view: {
                "absolute": scores.absolute(scored, errors[view]),
                "scaling": scores.scaling(scored, errors[view]),
                "ranking": scores.ranking(scored, errors[view]),
            }
            for view in VIEWS
        },
        "memory": scores.memory(scored, peaks),
        "by_gpu_and_family": dict(kinds),
        "constants": {
            "each": len(fields(Constants)),
            "fitted_rows": known["rows"],
            "fitted_families": sorted(own_keys & set(known["families"])),
            "others": sorted(own_keys - set(known["families"])),
        },
        "not_predicted": missing,
        "why_not": dict(Counter(missing.values())),
        "predictions": lines,
    }


def run(arguments: argparse.Namespace) -> int:
    rows = [row for row in read_rows(arguments.file) if row.split != "exclude"]
    if arguments.only:
        rows = [row for row in rows if arguments.only in row.id]
    cache = arguments.cache
    if arguments.fit:
        some = [row for row in rows if row.split in scores.SCORED]
        constants = {row.id: fitting.TYPICAL for row in some}
        # What waits and what is hidden shifts with the constants, so that rows are planned anew with those fitted; those
        # constants stand that plans made with them are least off with.
        least, best, planned = float("inf"), [], []
        for turn in range(PLANNED):
            before = planned
            if before:
                constants |= fitting.next_constants(before)
            planned, _ = predict_all(
                some, constants, cache, arguments.workers, f"fitting, {turn + 1} of {PLANNED}"
            )
            left = fitting.Fit(planned).left()
            if before and left < least:
                least, best = left, before
        known = fitting.fit_all(best)
        KNOWN.write_text(json.dumps(known, indent=1) + "\n")
    known = json.loads(KNOWN.read_text())
    constants = {row.id: fitting.constants_of(row, known) for row in rows}
    samples, missing = predict_all(rows, constants, cache, arguments.workers, "predicting")
    if not samples:
        print(
            f"validate: no row could be predicted: {next(iter(missing.values()), 'the file is empty')}",
            file=sys.stderr,
        )
        return 1
    found = result(rows, samples, missing, known)
    print(text(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    if arguments.plot:
        plot(found, arguments.plot)
    if arguments.write:
        arguments.write.write_text(markdown(found, known))
    return 0


def main() -> int:
    default = Path(os.environ.get("XDG_CACHE_HOME", tempfile.gettempdir())) / "moai-validate"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="rows with the columns of published_runs.csv")
    parser.add_argument("--fit", action="store_true", help="fit constants.json to the scored rows first")
    parser.add_argument("--only", metavar="TEXT", help="rows whose id has TEXT in it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all numbers")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="predicted against measured, as a PNG or SVG"
    )
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="the report as Markdown: docs/validation.md"
    )
    parser.add_argument(
        "--cache", type=Path, default=default, metavar="DIR", help=f"recorded steps ({default})"
    )
    parser.add_argument("--workers", type=int, default=min(4, os.cpu_count() or 1), metavar="N")
    try:
        return run(parser.parse_args())
    except (OSError, ValueError) as error:
        print(f"validate: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
