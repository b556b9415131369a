"""What every test begins with: moai imported, one thread, the same seed."""

from __future__ import annotations

import moai  # noqa: F401
import pytest
import torch


@pytest.fixture(autouse=True)
def same_start() -> None:
    """Equal random numbers whatever ran before, and on whichever worker."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
