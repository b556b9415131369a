"""Which rows of a large table the quick tests take: others with each commit, all of them with ``make test-full``."""

from __future__ import annotations

import functools
import os
import subprocess
import zlib
from pathlib import Path

FULL = os.environ.get("MOAI_TEST_FULL") == "1"


@functools.cache
def commit() -> str:
    """The commit that is tested; empty outside of a repository."""
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()


def is_chosen(row: tuple, share: int) -> bool:
    """Whether this commit takes the row: one in `share` does, about."""
    return FULL or drawn(row, share) == 0


def drawn(row: tuple, below: int) -> int:
    """A number for the row, another one with each commit."""
    return zlib.crc32(f"{commit()} {row}".encode()) % below
