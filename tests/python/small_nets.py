"""Small networks for tests of the device's surface, on the CPU and on moai."""

from __future__ import annotations

import torch
from torch import nn

D = "moai"


def same(got: torch.Tensor, want: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(got.detach().cpu(), want.detach().cpu(), rtol=tolerance, atol=tolerance)


def both(build) -> tuple[nn.Module, nn.Module]:
    """The module on the CPU and on moai, with equal weights."""
    made = []
    for device in ("cpu", D):
        torch.manual_seed(0)
        made.append(build().to(device))
    return made[0], made[1]


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def rows(device: str = "cpu") -> torch.Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(1)).to(device)
