"""What ``import torch`` calls (entry point group ``torch.backends``).

A module of its own: when a script imports moai before torch, this runs while moai itself is half imported.
"""

from __future__ import annotations


def load() -> None:
    """Make ``torch.device("moai")`` exist."""
    import moai  # noqa: F401
