#!/usr/bin/env python3
"""Checks that each room of csrc/ and kernels/ includes only the rooms it may: see docs/architecture.md.

$ python scripts/check_rooms.py
csrc/plan/cost.cpp includes record/; allowed: ir, ops
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

# Room -> the rooms it may include, besides itself. A room is a folder of csrc/, or kernels/<name>.
ALLOWED = {
    "ir": [],
    "ops": ["ir"],
    "plan": ["ir", "ops"],
    "compile": ["ir", "ops", "plan"],
    "runtime": ["ir", "compile"],
    "engine": ["ir", "ops", "plan", "compile", "runtime"],
    "record": ["ir", "ops", "compile", "runtime", "engine"],
    "kernels/aten": ["ir", "ops", "compile", "runtime"],
    "kernels/cpu": ["ir", "ops", "compile", "runtime", "kernels/aten"],
    "kernels/cuda": ["ir", "ops", "compile", "runtime", "kernels/aten"],
}
ALLOWED["python"] = [*ALLOWED]

TORCH_FREE = ["ir", "ops", "plan", "compile", "runtime"]
TORCH_HEADERS = ("torch/", "ATen/", "c10/", "pybind11/", "Python.h")

INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)
SUFFIXES = {".h", ".hpp", ".cpp", ".cu", ".cuh"}


def room_of(path: str) -> str | None:
    """The room that a path under the root, or an included path, belongs to.

    >>> room_of("csrc/plan/cost.cpp"), room_of("ir/graph.h"), room_of("kernels/cpu/gemm.h"), room_of("vector")
    ('plan', 'ir', 'kernels/cpu', None)
    """
    parts = path.removeprefix("csrc/").split("/")
    name = "/".join(parts[:2]) if parts[0] == "kernels" else parts[0]
    return name if len(parts) > 1 and name in ALLOWED else None


def complaints(path: str, text: str) -> list[str]:
    """What is wrong with the includes of the file at `path` (relative to the root), a line each."""
    room = room_of(path)
    if room is None:
        return [f"{path} is in no room; rooms: {', '.join(ALLOWED)}"]
    found = []
    for included in INCLUDE.findall(text):
        other = room_of(included)
        if included.startswith("csrc/"):
            found.append(f"{path} includes {included}; write {included.removeprefix('csrc/')}")
        elif included.startswith("."):
            found.append(f"{path} includes {included}; write its path from csrc/")
        elif other is not None and other != room and other not in ALLOWED[room]:
            allowed = ", ".join(ALLOWED[room]) or "nothing of ours"
            found.append(f"{path} includes {other}/; allowed: {allowed}")
        elif room in TORCH_FREE and included.startswith(TORCH_HEADERS):
            found.append(f"{path} includes {included}; {room} knows nothing of torch")
    return found


def main() -> int:
    root = Path(__file__).resolve().parent.parent
    found = []
    for top in ("csrc", "kernels"):
        for path in sorted((root / top).rglob("*")):
            if path.suffix in SUFFIXES:
                found += complaints(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8"))
    print("\n".join(found), end="\n" if found else "", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
