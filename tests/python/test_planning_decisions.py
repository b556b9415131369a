"""What experts would choose, on models and clusters of real sizes: `moai.plan` chooses it too."""

from __future__ import annotations

import json

import moai
import pytest

pytest.importorskip("transformers", reason="transformers is not installed")


def names(found: dict) -> list[str]:
    return [axis["name"] for axis in found["axes"]]


@pytest.mark.parametrize("cluster", ["mi250:4", "mi250:4x4"])
def test_llama_8b_fits_a_few_mi250_and_larger_batches_are_no_slower(cluster: str) -> None:
    rates = {}
    for batch in (16, 64, 512):
        found = moai.plan("llama3-8b", batch, 1024, cluster)
        assert found["fits"], (batch, found["excess"])
        assert found["peak_bytes"] <= found["cluster"]["memory_bytes"]
        rates[batch] = found["tokens_per_s"]
    assert rates[512] >= rates[64], rates


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "batch", "cluster"), [("llama3-70b", 128, "h100:8x16"), ("llama3-405b", 512, "h100:8x256")]
)
def test_large_models_fit_large_clusters(model: str, batch: int, cluster: str) -> None:
    found = moai.plan(model, batch, 1024, cluster)
    assert found["fits"], found["excess"]
    assert found["peak_bytes"] <= found["cluster"]["memory_bytes"]


def test_across_a_slow_network_go_batches_or_stages() -> None:
    slow = {
        "name": "slow",
        "levels": [
            {"name": "NVLink", "size": 8, "latency_s": 5e-6, "bytes_per_s": 400e9},
            {"name": "Ethernet", "size": 4, "latency_s": 5e-5, "bytes_per_s": 1e9},
        ],
        "kinds": ["h100"],
    }
    found = moai.plan("llama3-8b", 64, 1024, json.dumps(slow))
    assert found["fits"]
    inside = 1
    for axis in reversed(found["axes"]):  # the innermost first
        if axis["tensor"] > 0.3:
            assert inside * axis["size"] <= 8, found["layout"]
        inside *= axis["size"]
    assert found["stages"] > 1 or names(found)[0] == "data", found["layout"]


def test_a_long_context_is_split_along_the_sequence() -> None:
    found = moai.plan("llama3-8b", 1, 131072, "h100:8x4")
    assert found["fits"]
    assert "sequence" in names(found), found["layout"]


def test_experts_rows_go_in_turns() -> None:
    found = moai.plan("mixtral-8x7b", 64, 1024, "h100:8")
    assert found["fits"] and not found["no_micro_batches"] and found["micro_batches"] > 1, found["layout"]
    split = moai.plan("mixtral-8x7b", 64, 1024, "h100:8x2", pin="dp=16,micro=1,pp=1")
    assert max(axis["data"] for axis in split["axes"]) > 0.9, split["layout"]


def test_experts_go_to_devices_of_their_own() -> None:
    found = moai.plan("mixtral-8x7b", 16, 1024, "h100:8")
    assert found["fits"], found["excess"]
    assert max(axis["expert"] for axis in found["axes"]) > 0.3 and found["capacity"] > 1, found["layout"]
    kept = moai.plan("mixtral-8x7b", 16, 1024, "h100:8", pin="capacity=0")
    assert found["step_time_s"] < kept["step_time_s"], (found["layout"], kept["layout"])
