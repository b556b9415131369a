"""How rows of published runs are described to the planner, and how constants are fitted to them."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def module(name: str) -> Any:
    """One of benchmarks/, which is no package."""
    if str(BENCHMARKS) not in sys.path:
        sys.path.append(str(BENCHMARKS))
    return importlib.import_module(name)


BLANK = {
    "id": "r", "group": "nemo|m|H100-SXM-80GB", "model": "m", "layers": "32", "hidden": "1024", "ffn_hidden": "4096",
    "heads": "16", "kv_heads": "", "head_dim": "", "mlp": "gelu", "vocab": "32000", "tied_embeddings": "n",
    "num_experts": "", "top_k": "", "seq_len": "1024", "gpu": "H100-SXM-80GB", "gpus": "64", "gpus_per_node": "8",
    "net_gbps_per_gpu": "", "dp": "8", "tp": "4", "cp": "1", "pp": "2", "vp": "1", "ep": "1", "micro_batch": "1",
    "global_batch": "64", "precision": "bf16", "optimizer_sharding": "zero1", "shard_degree": "", "recompute": "none",
    "compile": "n", "step_time_s": "1", "memory_gib": "", "tier": "A", "split": "open", "core": "y",
}  # fmt: skip


def row(**fields: object) -> Any:
    return module("published").Row({**BLANK, **{name: str(value) for name, value in fields.items()}})


@pytest.mark.parametrize(
    ("fields", "pins"),
    [
        ({}, "copies=1,dp=8,ep=1,sp=1,tp=4,pp=2,micro=8,recompute=none,chunks=1,order=1f1b,sends=parts,zero=1"),
        # States in fewer parts than data parallelism has lie several times.
        ({"shard_degree": 2}, "copies=4,dp=2,ep=1,sp=1,tp=4,pp=2,micro=8,recompute=none,chunks=1,order=1f1b,sends=parts,zero=1"),
        ({"shard_degree": 3}, "copies=1,dp=8,ep=1,sp=1,tp=4,pp=2,micro=8,recompute=none,chunks=1,order=1f1b,sends=parts,zero=1"),
        # What FSDP gathers stays through a pipeline's micro-batches, and not where there is none.
        ({"optimizer_sharding": "fsdp"}, "copies=1,dp=8,ep=1,sp=1,tp=4,pp=2,micro=8,recompute=none,chunks=1,order=1f1b,sends=parts,zero=2"),
        ({"optimizer_sharding": "fsdp", "pp": 1, "dp": 16}, "copies=1,dp=16,ep=1,sp=1,tp=4,pp=1,micro=4,recompute=none,zero=3"),
        # Not stated: as few virtual stages as divide the layers, as many micro-batches as stages.
        ({"vp": ""}, "copies=1,dp=8,ep=1,sp=1,tp=4,pp=2,micro=8,recompute=none,chunks=2,order=1f1b,sends=parts,zero=1"),
        ({"vp": "", "layers": 27, "pp": 3}, "copies=1,dp=8,ep=1,sp=1,tp=4,pp=3,micro=8,recompute=none,chunks=3,order=1f1b,sends=parts,zero=1"),
        ({"micro_batch": "", "optimizer_sharding": "fsdp"}, "copies=1,dp=8,ep=1,sp=1,tp=4,pp=2,micro=2,recompute=none,chunks=1,order=1f1b,sends=parts,zero=2"),
        ({"micro_batch": ""}, "copies=1,dp=8,ep=1,sp=1,tp=4,pp=2,micro=8,recompute=none,chunks=1,order=1f1b,sends=parts,zero=1"),
    ],
)  # fmt: skip
def test_a_row_is_pinned_as_it_ran(fields: dict, pins: str) -> None:
    assert row(**fields).pins("none") == pins


def test_attention_that_is_not_fused_is_bound_by_its_scores() -> None:
    constants = module("published").Constants()
    kinds = [
        json.loads(row(group=f"{family}|m").cluster(constants))["kinds"][0]
        for family in ("nemo", "megatron-sc21")
    ]
    fused, unfused = (k["flops_bf16"] * k["attention_efficiency"] for k in kinds)
    bytes_per_s = kinds[0]["memory_bytes_per_s"]
    assert unfused < 7 * 64 / (40 / bytes_per_s)  # the scores alone
    assert unfused < fused / 2


def test_experts_of_a_part_of_the_positions_have_a_part_of_the_capacity(tmp_path: Path) -> None:
    published = module("published")
    fields = {
        "num_experts": 4, "top_k": 2, "layers": 2, "hidden": 2048, "ffn_hidden": 8192, "heads": 16, "vocab": 64, "seq_len": 1024,
        "global_batch": 2, "gpus": 4, "dp": 2, "cp": 2, "tp": 1, "pp": 1, "ep": 2, "mlp": "gated",
    }  # fmt: skip
    found = published.predict(row(**fields), published.Constants(), tmp_path)[0]
    alone = published.predict(row(**{**fields, "cp": 1, "gpus": 2}), published.Constants(), tmp_path)[0]
    assert found.parts["products"] < 0.75 * alone.parts["products"]


def gib(**fields: object) -> float:
    made, memory = row(**fields), module("framework_memory")
    return memory.peak_bytes(made.dimensions(), made.memory_layout(made.recompute)) / 2**30


def test_memory_of_a_run_is_what_its_parts_come_to_by_hand() -> None:
    # One GPU of one layer: weights, two gradients and three states of 12 h^2 and two tables in 20 bytes each.
    parameters = 12 * 1024**2 + 2 * 32000 * 1024
    tokens = 1024
    # Queries, keys, values, mix; the widened before and after gelu; inputs of norms and products, and what follows.
    kept = 2 * tokens * 1024 * (4 + 2 * 4 + 4)
    logits = 6 * tokens * 32000
    whole = {"layers": 1, "gpus": 1, "dp": 1, "tp": 1, "pp": 1, "optimizer_sharding": "none"}
    assert gib(**whole) * 2**30 == pytest.approx(20 * parameters + kept + logits)
    # In fp16 gradients are not summed in fp32.
    assert (gib(**whole) - gib(**whole, precision="fp16")) * 2**30 == pytest.approx(4 * parameters)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"recompute": "full"}, {"recompute": "selective"}),
        ({"recompute": "selective"}, {"recompute": "none"}),
        ({"optimizer_sharding": "zero1"}, {"optimizer_sharding": "none"}),
        ({"optimizer_sharding": "zero2"}, {"optimizer_sharding": "zero1"}),
        ({"optimizer_sharding": "zero1"}, {"optimizer_sharding": "zero1", "shard_degree": 2}),
        ({"compile": "y", "mlp": "gated"}, {"mlp": "gated"}),
        ({}, {"micro_batch": 2}),
        ({}, {"group": "bloom|m"}),  # scores of attention, whole activations between products
        ({"vp": 1}, {"vp": 4}),  # interleaved stages hold more micro-batches
        ({"num_experts": 8, "ep": 8}, {"num_experts": 8, "ep": 2}),
    ],
)
def test_memory_orders_what_frameworks_do(less: dict, more: dict) -> None:
    assert gib(**less) < gib(**more)


def sample(seconds: float, family: str = "a", **parts: float) -> Any:
    """A row that took a second, predicted with the constants all 1."""
    fitting, published = module("fitting"), module("published")
    names = (
        "products", "attention", "memory", "overhead", "inside", "across", "between_inside", "between_across",
        "must_wait", "must_wait_between",
    )  # fmt: skip
    made = published.Prediction(seconds, 0.0, "none", "", {name: parts.get(name, 0.0) for name in names})
    return fitting.Sample(row(group=f"{family}|m", id=family), [made], published.Constants())


def test_a_part_scales_with_its_constant_alone() -> None:
    fitting, published = module("fitting"), module("published")
    table = fitting.Table([sample(1.0, products=0.5, across=0.5, must_wait=1.0)])
    assert table.errors(published.Constants())[0] == pytest.approx(0)
    assert table.errors(published.Constants(products=0.5))[0] == pytest.approx(0.405465, abs=1e-5)
    assert table.errors(published.Constants(across=2.0))[0] == pytest.approx(-0.287682, abs=1e-5)
    assert table.errors(published.Constants(overlap=0.5))[0] == pytest.approx(0)  # all of it waits anyway
    between = fitting.Table([sample(1.0, products=0.5, between_across=0.5, must_wait_between=0.0)])
    assert between.errors(published.Constants(overlap=0.0))[0] == pytest.approx(0.693147, abs=1e-5)


def test_constants_for_other_families_are_the_median_family_s() -> None:
    fitting, published = module("fitting"), module("published")
    # Three families reach 0.8 of the profile, one, with most rows, a third.
    rows = [sample(0.8, family, products=0.8) for family in "abc"] + [sample(0.3, "d", products=0.3)] * 9
    found = fitting.fit(rows, published.Constants(), serves_others=True)
    assert found.products > 0.6
    own = fitting.fit(rows[3:], found)
    assert own.products < found.products


def test_what_lies_in_no_tensor_is_a_constant() -> None:
    fitting, published = module("fitting"), module("published")
    rows = [sample(1.0, products=1.0) for _ in range(3)]
    for one, stated in zip(rows, (4, 5, 9), strict=True):
        one.row = row(memory_gib=stated, id=str(stated))
        one.predictions[0].peak_bytes = 2 * 2**30
    assert fitting.held(rows, 3.0, serves_others=False) == 3.0
    assert fitting.held(rows, 6.5, serves_others=False) == 3.5
    assert fitting.held([], 1.5, serves_others=False) == 1.5
    assert published.Constants().held == 0
