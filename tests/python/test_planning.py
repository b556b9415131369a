"""`moai plan` and `moai.plan`: decisions that experts know, what the result holds, and what is refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import moai
import pytest
from moai import _C
from moai.cli import main
from moai.planning.command import with_memory

KEYS = {"fits", "step_time_s", "tokens_per_s", "peak_bytes", "layout", "lower_bound", "gap", "plan_seconds"}


def axes(found: dict) -> list[str]:
    return [axis["name"] for axis in found["axes"]]


def test_a_small_model_on_many_devices_splits_the_batch() -> None:
    found = moai.plan("gpt2", batch=32, seq=512, cluster="h100:8")
    assert found["fits"] and set(axes(found)) == {"data"}
    assert found["mesh_gap"] == pytest.approx(0, abs=1e-3) and found["lower_bound"] <= found["sum_s"] * (
        1 + 1e-9
    )
    assert found["tokens_per_s"] == pytest.approx(32 * 512 / found["step_time_s"])
    assert found["kept_whole"]["flops"] < 0.02 and found["kept_whole"]["bytes"] < 0.02


def test_one_sequence_on_many_devices_splits_what_is_in_it() -> None:
    found = moai.plan("gpt2", batch=1, seq=1024, cluster="h100:8")
    assert found["fits"] and "data" not in axes(found)
    assert found["no_micro_batches"] == "the batch holds one sample" and found["batch"] == 1
    assert found["samples_per_s"] == pytest.approx(1 / found["step_time_s"])


def test_a_batch_that_does_not_fit_is_gone_through_in_parts() -> None:
    found = moai.plan("gpt2", batch=256, seq=512, cluster="rtx3090:2")
    assert found["fits"] and found["micro_batches"] > 1
    assert found["peak_bytes"] <= found["cluster"]["memory_bytes"]


def test_the_same_question_has_the_same_answer() -> None:
    def answer() -> dict:
        found = moai.plan("gpt2", batch=8, seq=128, cluster="a100-80:2x2")
        return {k: v for k, v in found.items() if k not in ("plan_seconds", "runners_up")}

    assert answer() == answer()


def test_processes_agree_on_a_plan_to_the_byte(tmp_path) -> None:
    """Whatever the order of their hash tables, and however many threads they have."""
    command = [sys.executable, "-m", "moai", "plan", "--model", "gpt2", "--batch", "8", "--seq", "128"]
    plans = []
    for seed, threads in (("1", "1"), ("2", "3")):
        path = tmp_path / f"{seed}.json"
        environment = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": threads}
        arguments = ["--cluster", "a100-80:2x2", "--save", str(path)]
        subprocess.run([*command, *arguments], env=environment, check=True, capture_output=True)
        plans.append(path.read_bytes())
    assert plans[0] == plans[1]


def test_the_command_prints_and_writes_what_the_function_returns(capsys, tmp_path) -> None:
    path = tmp_path / "plan.json"
    arguments = ["plan", "--model", "gpt2", "--batch", "8", "--seq", "128", "--cluster", "h100:2"]
    assert main([*arguments, "--json", str(path)]) == 0
    said = capsys.readouterr().out
    found = json.loads(path.read_text())
    assert found.keys() >= KEYS and found["plan_seconds"].keys() >= {
        "record",
        "rules",
        "bounds",
        "search",
        "total",
    }
    for words in (
        "fits         yes",
        found["layout"],
        "tokens/sec predicted",
        "planned in",
    ):
        assert words in said
    assert main([*arguments, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["layout"] == found["layout"]


def test_a_model_too_large_is_told_by_how_much(capsys) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    status = main(["plan", "--model", "llama3-8b", "--batch", "1", "--seq", "128", "--cluster", "rtx3090:1"])
    said = " ".join(capsys.readouterr().out.split())
    assert status == 1 and "fits no: 59.8 GiB on each device at least, 36.3 GiB too many" in said
    assert "memory at the end of backward: 59.8 GiB at least, limit 23.5 GiB" in said
    assert "most of it states 29.9 GiB, weights 15.0 GiB, gradients 15.0 GiB" in said
    assert "14.0 GiB 128 x bf16[14336,4096] states" in said
    assert (
        "would fit rtx3090:4 (" in said and "no smaller batch, as weights, states and gradients are" in said
    )


@pytest.mark.parametrize(
    ("memory", "pin", "says"),
    [
        ("1100MiB", "", r"would fit h100:2 \([\d,]+ tokens/sec\), or shorter sequences; no smaller batch, as one sample at a time"),
        ("1100MiB", "", r"MiB bf16\[65536,50257\] activations aten.mm"),
        ("3GiB", "pp=1,micro=1,recompute=none", "would fit more devices, or a smaller batch, or shorter sequences, or fewer pins"),
        ("3GiB", "pp=1,micro=1,recompute=none", r"exceeded memory at [\w. ]+: \d+\.\d GiB.*, limit 3.0 GiB"),
    ],
)  # fmt: skip
def test_what_does_not_fit_says_what_it_is_and_what_would(memory: str, pin: str, says: str, capsys) -> None:
    arguments = ["--model", "gpt2", "--batch", "64", "--seq", "1024", "--cluster", "h100:1"]
    assert main(["plan", *arguments, "--memory", memory, "--pin", pin]) == 1
    assert re.search(says, " ".join(capsys.readouterr().out.split()))


def test_what_does_not_fit_is_told_in_json_that_others_read(capsys) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    arguments = ["--model", "gpt2", "--batch", "8", "--seq", "128", "--cluster", "h100:1", "--memory", "100MiB", "--pin", "pp=1"]  # fmt: skip
    assert main(["plan", *arguments, "--json", "-"]) == 1
    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert not found["fits"] and found["too_large"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "gtp2", "--batch", "8", "--seq", "8", "--cluster", "h100:8"], "unknown model 'gtp2': choose from gpt2,"),
        (["--model", "gpt2", "--batch", "8", "--seq", "8", "--cluster", "h1000:8"], "unknown device `h1000`"),
        (["--model", "gpt2", "--batch", "0", "--seq", "8", "--cluster", "h100:8"], "not 0 x 8"),
        (
            ["--model", "gpt2", "--batch", "8", "--seq", "1025", "--cluster", "h100:8"],
            "gpt2 has 1024 positions, too few for sequences of 1025 tokens\n  would work: --seq 1024,",
        ),
        (["--model", "gpt2", "--batch", "8", "--seq", "8", "--cluster", "h100:8", "--memory", "0"], "--memory 0 must be positive"),
        (["--model", "gpt2", "--batch", "8", "--seq", "8", "--cluster", "h100:8", "--memory", ""], "--memory  must be positive"),
        (
            ["--model", "gpt2", "--batch", "8", "--seq", "8", "--cluster", "h100:8", "--plan", "missing.json"],
            "plan file missing.json does not exist\n  would work: a file that moai plan --save wrote",
        ),
        (["--model", "gpt2", "--batch", "8", "--seq", "8", "--cluster", "h100:8", "--plan", "."], "plan file . cannot be read: Is a directory"),
        (
            ["--model", "gpt2", "--batch", "8", "--seq", "8", "--cluster", "h100:8", "--pin", "micro=3"],
            "micro=3 does not divide a batch of 8",
        ),
        (["--model", "gpt2", "--batch", "8", "--seq", "8", "--cluster", "h100:8", "--sweep", "batch"], "--sweep batch=8,16,32"),
        (["--model", "gpt2", "--batch", "8", "--seq", "8", "--cluster", "h100:8", "--sweep", "shape=3"], "--sweep shape=3 cannot be"),
        (["--model", "gpt2", "--batch", "8", "--seq", "8", "--cluster", "h100:8", "--sweep", "batch=4,x"], "batch=x: x is not"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(arguments: list[str], said: str, capsys) -> None:
    assert main(["plan", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_variations_stand_beside_and_one_that_cannot_be_says_why(tmp_path, capsys) -> None:
    path = tmp_path / "found.json"
    arguments = [
        "plan",
        "--model",
        "gpt2",
        "--batch",
        "8",
        "--seq",
        "128",
        "--cluster",
        "h100:4",
        "--json",
        str(path),
    ]
    assert (
        main([*arguments, "--compare", "cluster=h100:2", "--compare", "pin=tp=3", "--sweep", "batch=4,16"])
        == 0
    )
    found = json.loads(path.read_text())
    assert [c["change"] for c in found["compared"]] == ["cluster=h100:2", "pin=tp=3", "batch=4", "batch=16"]
    assert found["swept"] == ["batch=4", "batch=16"]
    refused = found["compared"][1]
    assert not refused["fits"] and "take 3 devices" in refused["refused"]
    assert "take 3 devices" in " ".join(capsys.readouterr().out.split())
    two, eight, sixteen = (c["step_time_s"] for c in (found["compared"][0], found, found["compared"][3]))
    assert two > eight and sixteen > eight


def test_a_saved_plan_comes_back_and_can_be_edited(tmp_path, capsys) -> None:
    arguments = ["plan", "--model", "gpt2", "--batch", "8", "--seq", "128", "--cluster", "h100:4"]
    path, first, second = tmp_path / "plan.json", tmp_path / "first.json", tmp_path / "second.json"
    assert main([*arguments, "--save", str(path), "--json", str(first)]) == 0
    assert main([*arguments, "--plan", str(path), "--json", str(second)]) == 0
    a, b = json.loads(first.read_text()), json.loads(second.read_text())
    for key in ("layout", "step_time_s", "peak_bytes", "tensors", "plan"):
        assert a[key] == b[key], key

    plan = json.loads(path.read_text())
    for entry in plan["nodes"]:  # every matrix product whole: the same numbers, and slower
        if entry["op"] == "aten.mm":
            entry["split"] = ["whole"] * len(plan["mesh"])
    found = moai.plan("gpt2", 8, 128, "h100:4", saved=json.dumps(plan))
    assert found["step_time_s"] > a["step_time_s"]

    product = next(entry for entry in plan["nodes"] if entry["op"] == "aten.mm")
    product["split"] = ["q"] * len(plan["mesh"])
    with pytest.raises((RuntimeError, ValueError), match=r"aten\.mm has no dimension `q` to split"):
        moai.plan("gpt2", 8, 128, "h100:4", saved=json.dumps(plan))
    product["op"] = "aten.bmm"
    with pytest.raises((RuntimeError, ValueError), match=r"aten\.bmm is not node \d+ of this step"):
        moai.plan("gpt2", 8, 128, "h100:4", saved=json.dumps(plan))
    with pytest.raises((RuntimeError, ValueError), match="the field `stages` is missing"):
        moai.plan("gpt2", 8, 128, "h100:4", saved='{"moai_plan": 1}')


@pytest.mark.parametrize(
    ("pin", "said"),
    [
        ("dp=3", "take"),
        ("dp=8,tp=2", "the pinned axes and 1 stage(s) take 16 devices, and h100:8 has 8"),
        ("ep=8", "ep=8 splits nothing: aten.mm has no dimension for it"),
        ("zero=4", "`zero=4` in the pins is no stage of ZeRO: 0, 1, 2 or 3"),
        ("tp", "`tp` in the pins has no value"),
        ("pp=two", "`pp=two` in the pins needs a number from 1"),
        ("recompute=some", "`some` is no way to recompute"),
        ("pp=3", "pp=3 cannot be"),
        ("dp=8,micro=8,pp=1", "dp=8,micro=8 cannot be: a batch of 8 cannot be split in 8 parts and 8 turns"),
        ("dp=8,micro=8", "would work: micro=1, or a batch of 64"),
        ("dp=4,pp=2,micro=4", "would work: micro=2, or a batch of 16"),
        ("copies=4,dp=2,micro=2", "copies=4,dp=2,micro=2 cannot be: a batch of 8 cannot be split in 8 parts and 2 turns"),
        ("pp=8,chunks=8", "pp=8,chunks=8 cannot be: forward has 27 stretches, too few for 64 virtual stages"),
        ("pp=8,chunks=8", "would work: chunks of at most 3"),
        ("chunks=64", "chunks=64 cannot be: forward has 27 stretches, too few for 128 virtual stages"),
        ("pp=1,order=gpipe", "order=gpipe cannot be: it is of a pipeline, and as pinned h100:8 has one stage"),
        ("dp=8,chunks=2", "chunks=2 cannot be: it is of a pipeline"),
        ("capacity=3,capacity=2", "`capacity=2` in the pins is there twice"),
        ("dp=1,dp=8", "`dp=8` in the pins is there twice"),
        ("random=3,pp=2", "`random=3` in the pins has one stage"),
    ],
)  # fmt: skip
def test_an_impossible_pin_is_named(pin: str, said: str) -> None:
    with pytest.raises((RuntimeError, ValueError)) as raised:
        moai.plan("gpt2", 8, 128, "h100:8", pin=pin)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("batch", "pin", "said"),
    [
        (4, "dp=8", "dp=8 cannot be: a batch of 4 cannot be split in 8 parts\n  would work: fewer parts, or a batch of 8"),
        (1, "dp=8", "dp=8 cannot be: a batch of 1 cannot be split in 8 parts"),
        (4, "copies=4,dp=2", "copies=4,dp=2 cannot be: a batch of 4 cannot be split in 8 parts"),
        (4, "dp=8,micro=2", "would work: fewer parts, or a batch of 16"),
    ],
)  # fmt: skip
def test_more_parts_than_samples_are_refused(batch: int, pin: str, said: str) -> None:
    with pytest.raises(RuntimeError) as raised:
        moai.plan("gpt2", batch, 128, "h100:8", pin=pin)
    assert said in str(raised.value)


def test_turns_leave_enough_for_the_axes_that_are_pinned() -> None:
    found = moai.plan("gpt2", 8, 1024, with_memory("h100:4", 2**29), pin="dp=4,pp=1")
    assert {plan["micro_batches"] for plan in (found, *found["runners_up"], *found["too_large"])} == {1, 2}


def test_pins_are_kept() -> None:
    found = moai.plan(
        "gpt2", 16, 128, "h100:8", pin="dp=2,tp=2,pp=2,micro=4,zero=1,recompute=full,order=1f1b,chunks=1"
    )
    assert [(a["name"], a["size"]) for a in found["axes"]] == [("data", 2), ("tensor", 2)]
    assert found["stages"] == 2 and found["micro_batches"] == 4 and found["recompute"] == "full"
    assert (found["order"], found["chunks"]) == ("1f1b", 1) and len(found["stage_begins"]) == 2
    states = [t for t in found["tensors"] if t["role"] == "state" and t["bytes"] > 1e6]
    weights = [t for t in found["tensors"] if t["role"] == "weight" and t["bytes"] > 1e6]
    assert states and all("data 2: shard" in t["placement"] for t in states)
    assert weights and all("data 2: replicate" in t["placement"] for t in weights)


def test_random_plans_are_valid_and_differ_by_seed() -> None:
    plans = [moai.plan("gpt2", 8, 128, "h100:8", pin=f"random={seed}") for seed in (1, 1, 2, 3)]
    assert plans[0]["plan"] == plans[1]["plan"]
    assert len({p["plan"] for p in plans}) == 3
    best = moai.plan("gpt2", 8, 128, "h100:8", pin="pp=1,micro=1,recompute=none")
    assert all(p["fits"] and p["sum_s"] > best["sum_s"] for p in plans)


def test_unequal_devices_share_the_work_by_their_speed() -> None:
    def cluster(*kinds: object) -> str:
        link = {"name": "NVLink", "size": 8, "latency_s": 5e-6, "bytes_per_s": 400e9}
        return json.dumps(
            {
                "levels": [link],
                "kinds": list(kinds),
                "kind_of_device": [d * len(kinds) // 8 for d in range(8)],
            }
        )

    slow = {"like": "h100", "name": "slow", "flops_bf16": 494.5e12, "memory_bytes_per_s": 1675e9}
    times = [
        moai.plan("gpt2", 64, 512, cluster(*kinds))["step_time_s"]
        for kinds in (["h100"], ["h100", slow], [slow])
    ]
    assert times[0] < times[1] < times[2]


def test_zero_says_what_lies_sharded_and_gradients_are_sharded_where_memory_asks_for_it() -> None:
    pin = "dp=4,micro=4,recompute=none"
    plans = [moai.plan("gpt2", 16, 128, "h100:4", pin=f"{pin},zero={stage}") for stage in range(4)]
    kept = [plan["bytes"] for plan in plans]
    assert [round(kept[0]["states"] / each["states"]) for each in kept] == [1, 4, 4, 4]
    assert [round(kept[0]["gradients"] / each["gradients"]) for each in kept] == [1, 1, 4, 4]
    assert [round(kept[0]["weights"] / each["weights"]) for each in kept] == [1, 1, 1, 4]
    sent = [plan["time"]["communicate_s"] for plan in plans]
    assert sent[2] > sent[1]  # in each turn, not after the last one
    assert '"gradients": "at once"' in plans[2]["plan"]
    again = moai.plan("gpt2", 16, 128, "h100:4", saved=plans[2]["plan"])
    for key in ("layout", "step_time_s", "peak_bytes", "plan"):
        assert again[key] == plans[2][key], key

    # Just enough for what the third stage takes: without a stage pinned, gradients are sharded at once too.
    cluster = json.loads(_C.cluster("h100:4")["json"])
    for device in cluster["kinds"]:
        device["memory_bytes"] = int(1.01 * plans[3]["peak_bytes"])
    found = moai.plan("gpt2", 16, 128, json.dumps(cluster), pin=pin)
    assert found["fits"]
    assert "gradients sharded as they are made" in found["layout"]
