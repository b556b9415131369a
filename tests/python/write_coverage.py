"""Writes docs/coverage.md: all of torch's op, module and optimizer databases against the CPU.

    python tests/python/write_coverage.py           # minutes on two cores

Every entry runs in a process of its own, so that a crash costs one. Ends with 1 where something is not as
opinfo_known.py says.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import moai  # noqa: F401
import torch

sys.path.insert(0, str(Path(__file__).parent))
import moduleinfo  # noqa: E402
import opinfo  # noqa: E402
from comparing import Outcome  # noqa: E402
from opinfo_known import DEPENDS_ON_DATA, STATED, depends_on_data, known  # noqa: E402

JOBS = 2
DATABASES = {
    "ops": (opinfo.EVERYTHING, opinfo.check),
    "modules": (moduleinfo.MODULE_PAIRS, moduleinfo.check_module),
    "optimizers": (moduleinfo.OPTIMIZER_PAIRS, moduleinfo.check_optimizer),
}


def check_in_processes(pairs: list[tuple[str, str]], check: Callable) -> list[Outcome]:
    """Outcomes in the order of `pairs`. Forks: call it before anything was run."""
    outcomes: dict[tuple[str, str], Outcome] = {}
    running: dict[int, tuple[tuple[str, str], int]] = {}
    todo = list(reversed(pairs))
    while todo or running:
        while todo and len(running) < JOBS:
            pair = todo.pop()
            read, write = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(read)
                answer = json.dumps(dataclasses.asdict(check(*pair))).encode()
                with os.fdopen(write, "wb") as pipe:
                    pipe.write(answer)
                os._exit(0)
            os.close(write)
            running[child] = (pair, read)
        # The answer may be larger than what a pipe holds, so it is read to its end first.
        child = next(iter(running))
        pair, read = running.pop(child)
        with os.fdopen(read, "rb") as pipe:
            answer = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if answer:
            outcomes[pair] = Outcome(**json.loads(answer))
        else:
            outcomes[pair] = Outcome(*pair, problems=[f"the process died with {status}"])
    return [outcomes[p] for p in pairs]


def totals(label: str, outcomes: list[Outcome]) -> str:
    n = len(outcomes)
    equal, recorded = sum(o.equal for o in outcomes), sum(o.recorded for o in outcomes)
    dependent = sum(not o.recorded and depends_on_data(o.name, o.dtype) is not None for o in outcomes)
    counts = [
        n,
        f"{equal} ({equal / n:.1%})",
        sum(o.bitwise and o.equal and not o.random for o in outcomes),
        f"{recorded} ({recorded / n:.1%})",
        dependent,
        sum(o.random for o in outcomes),
        sum(o.cases for o in outcomes),
        sum(o.errors for o in outcomes),
    ]
    return "| " + " | ".join([label, *map(str, counts)]) + " |"


def grouped(outcomes: list[Outcome], why: Callable[[Outcome], str]) -> Iterator[str]:
    """One row for each name and reason, with its dtypes."""
    rows: dict[tuple[str, str], list[str]] = {}
    for o in outcomes:
        rows.setdefault((o.name, why(o)), []).append(o.dtype)
    for (name, reason), dtypes in rows.items():
        yield f"| {name} | {', '.join(dtypes)} | {reason} |"


def difference(outcome: Outcome) -> str:
    said = outcome.problems[0].partition(": ")[2].replace("|", "\\|")
    return f"{known(outcome.name, outcome.dtype) or 'not known'} | `{said[:200]}`"


def reads(outcome: Outcome) -> str:
    ran = ", ".join(sorted(outcome.reasons))
    return f"{depends_on_data(outcome.name, outcome.dtype) or 'not known'} | {ran}"


def page(found: dict[str, list[Outcome]]) -> str:
    everything = [o for outcomes in found.values() for o in outcomes]
    lines = [
        "# Conformity to torch's databases",
        "",
        f"Written by `python tests/python/write_coverage.py` on torch {torch.__version__}: torch's own databases of ops,",
        "modules and optimizers, each entry in each dtype that the CPU has, against the CPU. An op's samples (forward, on strided",
        "and on lazily conjugated inputs, backward, in place, in place with backward, `out=`) are recorded in one graph before",
        "anything is read; results, gradients and what is left of the inputs are compared. A module goes forward and backward twice",
        "and gives its `state_dict`; an optimizer takes steps, alone and under schedules, and goes on in a new one from its",
        "`state_dict`. A wrong call must raise the CPU's own error, of the same type and in the same words, devices aside.",
        "",
        "| | pairs (entry, dtype) | equal | of these in every bit | recorded | depend on data | random: same sizes and dtypes | cases | wrong calls |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for database, outcomes in found.items():
        lines.append(totals(database, outcomes))
        for dtype in dict.fromkeys(o.dtype for o in outcomes):
            lines.append(totals(f"{database}, {dtype}", [o for o in outcomes if o.dtype == dtype]))
    lines += [
        totals("all", everything),
        "",
        "A pair that is not recorded runs an op at once, or reads a value on the host, in at least one of its cases.",
        "",
        "## Known to differ",
        "",
        "| entry | dtypes | why | what is raised |",
        "|---|---|---|---|",
        *grouped([o for o in everything if not o.equal], difference),
        "",
        "## Dependent on data",
        "",
        "| entry | dtypes | why | runs at once |",
        "|---|---|---|---|",
        *grouped([o for o in everything if not o.recorded], reads),
        "",
        "## Beside the databases",
        "",
        *(f"- {what}: {difference}." for what, difference in STATED.items()),
        "",
    ]
    return "\n".join(lines)


def unexpected(outcomes: list[Outcome]) -> Iterator[str]:
    """What is not as the tables say, in either direction."""
    for o in outcomes:
        if o.equal == (known(o.name, o.dtype) is not None):
            yield f"{o.name} {o.dtype} " + ("is equal, against KNOWN" if o.equal else o.report())
        if not o.recorded and depends_on_data(o.name, o.dtype) is None:
            yield f"{o.name} {o.dtype} is not recorded: {o.reasons}"
    read = {n for o in outcomes if not o.recorded for n in (o.name, f"{o.name} {o.dtype}")}
    yield from (
        f"{name} is recorded, against DEPENDS_ON_DATA" for name in DEPENDS_ON_DATA if name not in read
    )


def main() -> int:
    torch.set_num_threads(1)
    found = {name: check_in_processes(*database) for name, database in DATABASES.items()}
    text = page(found)
    (Path(__file__).parents[2] / "docs" / "coverage.md").write_text(text)
    if raw := os.environ.get("MOAI_TEST_OUTCOMES"):
        rows = [dataclasses.asdict(o) for outcomes in found.values() for o in outcomes]
        Path(raw).write_text("\n".join(map(json.dumps, rows)))
    surprises = list(unexpected([o for outcomes in found.values() for o in outcomes]))
    print(text.split("## ")[0])
    print("\n".join(surprises) or "all as the tables say")
    return bool(surprises)


if __name__ == "__main__":
    sys.exit(main())
