"""What experts would choose, on models and clusters of real sizes: `moai.plan` chooses it too."""

from __future__ import annotations

import json

import moai
import pytest
import torch
from moai.planning import plan_graph, record_step
from moai.planning.models import PlanModel
from torch import nn

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


def hosts(count: int, devices: int, device: object, latency_s: float, bytes_per_s: float) -> str:
    """A cluster as JSON: hosts of H100s, and the network between them."""
    inside = {"name": "NVLink", "size": devices, "latency_s": 5e-6, "bytes_per_s": 400e9}
    between = {"name": "network", "size": count, "latency_s": latency_s, "bytes_per_s": bytes_per_s}
    return json.dumps({"name": "hosts", "levels": [inside, between], "kinds": [device]})


def test_across_a_slow_network_go_batches_or_stages() -> None:
    found = moai.plan("llama3-8b", 64, 1024, hosts(4, 8, "h100", 5e-5, 1e9))
    assert found["fits"]
    assert found["stages"] > 1 or names(found)[0] == "data", found["layout"]


class WideLayers(nn.Module):
    """Two layers, each with its states larger than a device of 2.5 GiB."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(1000, 4096)
        self.up, self.down = nn.Linear(4096, 65536), nn.Linear(65536, 4096)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.down(self.up(self.embed(tokens)).relu())


@pytest.mark.parametrize(
    ("latency_s", "bytes_per_s", "most"), [(5e-5, 1e9, 4), (5e-6, 400e9, 8)], ids=["slow", "fast"]
)
def test_features_are_split_inside_a_host_where_the_network_is_slow(
    latency_s: float, bytes_per_s: float, most: int
) -> None:
    """Over a network as fast as what is inside a host the same step takes all devices for it."""
    model = PlanModel(WideLayers, lambda model, tokens: model(tokens).square().mean())
    graph, _ = record_step(model, 64, 128)
    small = {"like": "h100", "name": "small", "memory_bytes": 5 * 2**29}
    found = plan_graph(graph, hosts(2, 4, small, latency_s, bytes_per_s))
    assert found["fits"]
    reach = inside = 1  # how many neighbours the outermost tensor axis, and all axes, reach over
    for axis in reversed(found["axes"]):  # the innermost first
        inside *= axis["size"]
        if axis["tensor"] > 0.3:
            reach = inside
    assert reach == most, found["layout"]


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
