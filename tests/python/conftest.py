"""What every test begins with: moai imported, one thread, the same seed."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

import pytest

# Before moai is imported: the user's own plans are neither read nor written, plans are as where nothing was measured, and
# `moai smi` shows no test, here and in what tests start.
FOLDER = tempfile.mkdtemp(prefix="moai-tests-")
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
os.environ["MOAI_CACHE"] = FOLDER
os.environ.setdefault("MOAI_DEVICES", "cpu")  # moai bench uses four where nothing is said
os.environ["MOAI_PROFILE"] = os.path.join(FOLDER, "machine.json")
os.environ["MOAI_STATUS"] = os.path.join(FOLDER, "status")

import moai  # noqa: E402, F401
import torch  # noqa: E402


@pytest.fixture(autouse=True)
def same_start() -> None:
    """Equal random numbers whatever ran before, and on whichever worker."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
