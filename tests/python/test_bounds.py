"""A plan's lower bound is one: nothing that the search looked at adds up to less."""

from __future__ import annotations

import json

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


SLOW = {
    "name": "slow",
    "levels": [
        {"name": "NVLink", "size": 8, "latency_s": 5e-6, "bytes_per_s": 400e9},
        {"name": "Ethernet", "size": 4, "latency_s": 5e-5, "bytes_per_s": 1e9},
    ],
    "kinds": ["h100"],
}


@pytest.mark.parametrize(
    ("model", "batch", "cluster", "pins"),
    [
        ("gpt2", 32, "h100:8", "pp=1"),
        ("gpt2", 32, "h100:8", "pp=4,chunks=2,order=1f1b"),
        ("gpt2", 32, "h100:8", "pp=4,order=zero_bubble"),
        ("llama3-8b", 512, "mi250:4x4", ""),
        ("llama3-8b", 64, json.dumps(SLOW), ""),
    ],
)
def test_parts_add_up(model: str, batch: int, cluster: str, pins: str) -> None:
    """Bytes to the peak, those of pipelines too; times, nothing overlapping, to no less than a step of one stage."""
    best = _C.plan_step(record_step(MODELS[model], batch, 1024)[0], cluster, pins)["candidates"][0]
    assert best["fits"], best["excess"]
    held = {name: size for name, size in best["bytes"].items() if name != "host"}
    assert sum(held.values()) == pytest.approx(best["peak_bytes"]), held
    assert min(held.values()) >= 0, held
    assert best["stages"] > 1 or best["sum_s"] >= best["step_time_s"] * (1 - 1e-9), best["layout"]
