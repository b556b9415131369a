"""The room check finds arrows that point the wrong way, and this tree has none."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/check_rooms.py"
complaints = runpy.run_path(str(SCRIPT))["complaints"]


@pytest.mark.parametrize(
    "path, included, complaint",
    [
        ("csrc/plan/cost.cpp", '"ops/traits.h"', None),
        ("csrc/plan/cost.cpp", '"plan/mesh.h"', None),
        ("csrc/plan/cost.cpp", "<vector>", None),
        ("csrc/record/pch.h", "<torch/library.h>", None),
        ("csrc/python/module.cpp", '"kernels/cpu/executor.h"', None),
        ("csrc/plan/cost.cpp", '"record/cut.h"', "csrc/plan/cost.cpp includes record/; allowed: ir, ops"),
        ("csrc/ir/graph.h", '"ops/traits.h"', "csrc/ir/graph.h includes ops/; allowed: nothing of ours"),
        (
            "csrc/engine/engine.cpp",
            '"kernels/cpu/executor.h"',
            "csrc/engine/engine.cpp includes kernels/cpu/; allowed: ir, ops, plan, compile, runtime",
        ),
        (
            "csrc/runtime/worker.cpp",
            "<c10/util/Exception.h>",
            "csrc/runtime/worker.cpp includes c10/util/Exception.h; runtime knows nothing of torch",
        ),
        (
            "csrc/ir/type.cpp",
            '"../ops/traits.h"',
            "csrc/ir/type.cpp includes ../ops/traits.h; write its path from csrc/",
        ),
        (
            "csrc/record/cut.cpp",
            '"csrc/ir/graph.h"',
            "csrc/record/cut.cpp includes csrc/ir/graph.h; write ir/graph.h",
        ),
    ],
)
def test_arrow(path, included, complaint):
    assert complaints(path, f"#pragma once\n#include {included}\n") == ([complaint] if complaint else [])


def test_this_tree_has_no_arrow_the_wrong_way():
    check = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True)
    assert (check.returncode, check.stderr) == (0, "")
