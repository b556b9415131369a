"""A plan's lower bound is one: nothing that the search looked at adds up to less."""

from __future__ import annotations

import pytest
from moai import _C

pytest.importorskip("transformers", reason="transformers is not installed")

from moai.planning import record_step
from moai.planning.models import MODELS


@pytest.mark.parametrize(
    ("model", "batch", "cluster", "pins"),
    [
        ("gpt2", 32, "h100:8", ""),
        ("gpt2", 64, "h100:8x2", "pp=1,zero=2"),
        ("llama3-8b", 64, "h100:8x8", ""),
        ("llama3-8b", 64, "h100:8x8", "pp=1"),  # three axes
        ("llama3-8b", 64, "a100-40:8x2", "pp=1"),  # gradients sharded as they are made
        ("llama3-8b", 64, "a100-40:8x2", "dp=8,tp=2"),
        ("mixtral-8x7b", 64, "h100:8", "pp=1"),  # rows sent to experts
    ],
)
def test_no_plan_adds_up_to_less_than_the_bound(model: str, batch: int, cluster: str, pins: str) -> None:
    found = _C.plan_step(record_step(MODELS[model], batch, 1024)[0], cluster, pins)
    best = found["candidates"][0]
    assert best["fits"], best["excess"]
    for plan in found["candidates"]:
        if plan["fits"]:
            assert found["lower_bound"] <= plan["sum_s"] * (1 + 1e-9), plan["layout"]
            assert plan["lower_bound"] <= plan["sum_s"] * (1 + 1e-9), plan["layout"]
    assert found["gap"] == pytest.approx(1 - found["lower_bound"] / best["sum_s"], abs=1e-9)
    assert found["gap"] >= found["mesh_gap"] - 1e-9, best["layout"]
