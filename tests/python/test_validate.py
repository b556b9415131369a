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
        ({}, "copies=1,dp=8,ep=1,sp=1,tp=4,pp=2,micro=8,recompute=none,chunks=1,order=1f1b,sends=parts,zero=1,gathers=ahead"),
        # States in fewer parts than data parallelism has lie several times.
        ({"shard_degree": 2}, "copies=4,dp=2,ep=1,sp=1,tp=4,pp=2,micro=8,recompute=none,chunks=1,order=1f1b,sends=parts,zero=1,gathers=ahead"),
        ({"shard_degree": 3}, "copies=1,dp=8,ep=1,sp=1,tp=4,pp=2,micro=8,recompute=none,chunks=1,order=1f1b,sends=parts,zero=1,gathers=ahead"),
        # What FSDP gathers stays through a pipeline's micro-batches, and not where there is none.
        ({"optimizer_sharding": "fsdp"}, "copies=1,dp=8,ep=1,sp=1,tp=4,pp=2,micro=8,recompute=none,chunks=1,order=1f1b,sends=parts,zero=2,gathers=ahead"),
        ({"optimizer_sharding": "fsdp", "pp": 1, "dp": 16}, "copies=1,dp=16,ep=1,sp=1,tp=4,pp=1,micro=4,recompute=none,zero=3,gathers=ahead"),
        # Not stated: as few virtual stages as divide the layers, as many micro-batches as stages.
        ({"vp": ""}, "copies=1,dp=8,ep=1,sp=1,tp=4,pp=2,micro=8,recompute=none,chunks=2,order=1f1b,sends=parts,zero=1,gathers=ahead"),
        ({"vp": "", "layers": 27, "pp": 3}, "copies=1,dp=8,ep=1,sp=1,tp=4,pp=3,micro=8,recompute=none,chunks=3,order=1f1b,sends=parts,zero=1,gathers=ahead"),
        ({"micro_batch": "", "optimizer_sharding": "fsdp"}, "copies=1,dp=8,ep=1,sp=1,tp=4,pp=2,micro=2,recompute=none,chunks=1,order=1f1b,sends=parts,zero=2,gathers=ahead"),
        # Experts that tensor parallelism leaves whole lie along its axis, then along context parallelism's, then data's.
        ({"num_experts": 8, "ep": 8, "cp": 2, "dp": 4, "notes": "expert-TP=1"}, "copies=1,dp=4,ep=1,sp=2,tp=4,pp=2,micro=16,recompute=none,chunks=1,order=1f1b,sends=parts,zero=1,experts=tp+sp,gathers=ahead"),
        ({"num_experts": 8, "ep": 8, "notes": "expert-TP=1"}, "copies=1,dp=4,ep=2,sp=1,tp=4,pp=2,micro=8,recompute=none,chunks=1,order=1f1b,sends=parts,zero=1,experts=tp,gathers=ahead"),
        ({"micro_batch": ""}, "copies=1,dp=8,ep=1,sp=1,tp=4,pp=2,micro=8,recompute=none,chunks=1,order=1f1b,sends=parts,zero=1,gathers=ahead"),
    ],
)  # fmt: skip
def test_a_row_is_pinned_as_it_ran(fields: dict, pins: str) -> None:
    assert row(**fields).pins("none") == pins


def message(kind: str, seconds: float, *, axis: int = 0, name: str = "data", once: bool = False) -> dict:
    return {
        "collective": kind, "axis": axis, "axis_name": name, "once_a_step": once, "count": 2.0, "bytes": 2e9,
        "seconds": seconds,
    }  # fmt: skip


def more(made: Any, messages: list[dict]) -> tuple[float, float]:
    """What its framework's messages take beyond a plan's of 2 x 4 devices of one host, of whose time three quarters are
    not hidden: their seconds, and the step's."""
    found = {"breakdown": {"messages": messages}, "mesh": [2, 4]}
    cluster = module("published")._C.cluster("h100:8")["json"]
    networks = [False, False, False]
    changed = module("framework_messages").of(made, found, networks, cluster, must_wait=0.75, overlap=0.5)
    assert changed["across"].seconds == 0
    return changed["inside"].seconds, changed["inside"].shown


def test_what_is_multiplied_in_8_bits_is_gathered_in_half_the_time() -> None:
    """What is summed takes as long as before, and the next product's operand is gathered behind a sum."""
    messages = [
        message("all-gather", 4),
        message("reduce-scatter", 8, once=True),
        message("all-gather", 16, axis=1, name="tensor"),
        message("all-reduce", 32, axis=1, name="tensor"),
        message("all-reduce", 64, axis=1, name="tensor", once=True),
    ]
    assert more(row(group="titan|m", precision="fp8"), messages) == (-18, -18 * 0.75)
    assert more(row(group="titan|m"), messages) == more(row(precision="fp8"), messages) == (0, 0)


def test_products_go_on_with_what_has_come_in_asynchronous_tensor_parallelism() -> None:
    messages = [message("all-gather", 4), message("reduce-scatter", 8, axis=1, name="tensor")]
    assert more(row(notes="x; async TP"), messages) == (0, -0.5 * 8)


@pytest.mark.parametrize(("family", "bytes_of_16_bits"), [("nanotron", 2), ("internevo", 1)])
def test_gradients_that_all_devices_add_up_whole_are_gathered_too(family: str, bytes_of_16_bits: int) -> None:
    """Scattering alone is half of it, and in 16 bits half of that in 32: latency apart."""
    collective = module("published")._C.collective_seconds
    cluster = module("published")._C.cluster("h100:8")["json"]
    scattered = 2 * collective(cluster, "reduce-scatter", 4, 2, 1e9)
    seconds, shown = more(row(group=f"{family}|m"), [message("reduce-scatter", scattered, once=True)])
    assert seconds == pytest.approx((2 * bytes_of_16_bits - 1) * scattered, rel=0.05)
    assert shown == pytest.approx(0.75 * seconds)


def test_weights_that_are_copied_piece_by_piece_keep_the_script_busy() -> None:
    made = row(group="nanotron|m")
    few, many = (more(made, [message("all-gather", 1, axis=axis, once=True)]) for axis in (0, 1))
    assert few[0] == few[1] > 0  # nothing hides it
    assert many[0] == pytest.approx(2 * few[0])  # four devices against two


def test_a_collective_that_is_none_is_refused() -> None:
    core = module("published")._C
    with pytest.raises(ValueError, match="`gossip` is no collective"):
        core.collective_seconds(core.cluster("h100:8")["json"], "gossip", 1, 8, 1e6)


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


def parts_of_mixture(cache: Path, **fields: object) -> dict[str, float]:
    """What a step of two layers of experts is predicted to take, by what takes it."""
    published = module("published")
    shared = {
        "top_k": 2, "layers": 2, "hidden": 2048, "ffn_hidden": 8192, "heads": 16, "vocab": 64, "cp": 2, "pp": 1, "mlp": "gated",
    }  # fmt: skip
    return published.predict(row(**{**shared, **fields}), published.Constants(), cache)[0].parts


def test_experts_of_a_part_of_the_positions_have_a_part_of_the_capacity(tmp_path: Path) -> None:
    fields = {"num_experts": 4, "seq_len": 1024, "global_batch": 2, "gpus": 4, "dp": 2, "tp": 1, "ep": 2}
    found = parts_of_mixture(tmp_path, **fields)
    alone = parts_of_mixture(tmp_path, **{**fields, "cp": 1, "gpus": 2})
    assert found["products"] < 0.75 * alone["products"]


def test_experts_left_whole_by_tensor_parallelism_are_on_their_hosts(tmp_path: Path) -> None:
    """Nothing of them crosses hosts, where experts inside of data parallelism send all their rows across."""
    fields = {"num_experts": 8, "seq_len": 2048, "global_batch": 128, "gpus": 32, "dp": 4, "tp": 4}
    whole = parts_of_mixture(tmp_path, **fields, ep=8, notes="expert-TP=1")
    split = parts_of_mixture(tmp_path, **fields, ep=4)
    assert whole["across"] < 0.5 * split["across"]


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


def known_from(rows: list) -> dict:
    for at, one in enumerate(rows):
        one.row.fields["id"] = str(at)
    return module("fitting").fit_all(rows)


def test_a_family_has_constants_of_its_own_and_others_what_is_common() -> None:
    fitting = module("fitting")
    # Three families reach 0.9 of the profile, one less.
    usual = [sample(0.9, family, products=0.9) for family in "abc"]
    found = known_from([*usual, sample(0.7, "d", products=0.7)])
    own, others = (found["families"][f"H100-SXM-80GB {family}"]["products"] for family in "da")
    assert own < others - 0.05
    # A family that is not there, and one that is left out, go by the others.
    assert (
        fitting.constants_of(row(group="e|m"), found).products == found["gpus"]["H100-SXM-80GB"]["products"]
    )
    left_out = fitting.constants_of(row(group="d|m"), found, without="family").products
    assert own < left_out


def test_a_group_that_is_left_out_says_nothing() -> None:
    fitting = module("fitting")
    rows = [sample(seconds, "a", products=1.0) for seconds in (1.0, 1.0, 0.9)]
    for one, name in zip(rows, "xyz", strict=True):
        one.row.fields["group"] = f"a|{name}"
    with_slow, without_slow = (
        fitting.constants_of(rows[2].row, known_from(rows), view) for view in ("", "group")
    )
    assert with_slow.products < without_slow.products
    alone = known_from(rows[:2])["families"]["H100-SXM-80GB a"]
    assert without_slow.products == pytest.approx(alone["products"], abs=2e-3)


def test_a_family_is_known_on_a_gpu_that_it_was_not_seen_on() -> None:
    fitting = module("fitting")
    rows = [
        sample(1.0, "a", products=1.0),
        *(sample(seconds, family, products=1.0) for family, seconds in [("a", 1.0), ("b", 0.9)]),
    ]
    for one in rows[1:]:
        one.row.fields["gpu"] = "A100-SXM-80GB"
    found = known_from(rows)
    there = fitting.constants_of(row(group="b|m"), found)
    assert there.products < found["families"]["H100-SXM-80GB a"]["products"]


def test_updated_weights_are_gathered_beside_the_next_forward(tmp_path: Path) -> None:
    published = module("published")
    made = row(layers=2, gpus=4, dp=4, tp=1, pp=1, global_batch=4, vocab=64)
    graph = published.graph_of(made.dimensions(), tmp_path)
    for overlap in (0.0, 1.0):
        cluster = made.cluster(published.Constants(overlap=overlap))
        ahead, once = (
            published._C.plan_step(graph, cluster, made.pins("none").replace(",gathers=ahead", when), "")[
                "candidates"
            ][0]
            for when in (",gathers=ahead", "")
        )
        assert ahead["time"]["communicate_s"] == pytest.approx(once["time"]["communicate_s"])
        if overlap:
            assert ahead["step_time_s"] < once["step_time_s"]
        else:
            assert ahead["step_time_s"] == pytest.approx(once["step_time_s"], rel=0.01)


def test_weights_gathered_one_by_one_take_longer_the_more_devices_there_are(tmp_path: Path) -> None:
    published = module("published")

    def longer(dp: int, family: str) -> float:
        made = row(group=f"{family}|m", layers=2, gpus=dp, dp=dp, tp=1, pp=1, global_batch=dp, vocab=64)
        found = published.predict(made, published.Constants(), tmp_path)[0]
        usual = published.predict(row(**{**made.fields, "group": "nemo|m"}), published.Constants(), tmp_path)[
            0
        ]
        return found.seconds - usual.seconds

    few, many = (longer(dp, "internevo") for dp in (8, 64))
    # 30 values, each once round 8 hosts of 8.
    assert many > few + 30 * (7 * 10e-6 + 56 * 1.5e-6) * 0.8
    assert longer(64, "nemo") == 0


def test_in_fp8_the_blocks_products_alone_are_faster(tmp_path: Path) -> None:
    published = module("published")
    fields = {"layers": 1, "gpus": 1, "dp": 1, "tp": 1, "pp": 1, "global_batch": 1}

    def products(**more: object) -> float:
        made = row(**{**fields, **more})
        return published.predict(made, published.Constants(), tmp_path)[0].parts["products"]

    wide = {"hidden": 4096, "ffn_hidden": 16384, "vocab": 64}
    assert products(precision="fp8", **wide) / products(**wide) == pytest.approx(989 / 1979 / 0.88, rel=0.02)
    heads = [
        products(precision=precision, **{**wide, "vocab": 32064}) - products(precision=precision, **wide)
        for precision in ("fp8", "bf16")
    ]
    assert heads[0] == pytest.approx(heads[1], rel=0.01)


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
