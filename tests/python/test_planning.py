"""`moai plan` and `moai.plan`: decisions that experts know, what the result holds, and what is refused."""

from __future__ import annotations

import json

import moai
import pytest
from moai.cli import main

KEYS = {"fits", "step_time_s", "tokens_per_s", "peak_bytes", "layout", "lower_bound", "gap", "plan_seconds"}


def axes(found: dict) -> list[str]:
    return [axis["name"] for axis in found["axes"]]


def test_a_small_model_on_many_devices_splits_the_batch() -> None:
    found = moai.plan("gpt2", batch=32, seq=256, cluster="h100:8")
    assert found["fits"] and set(axes(found)) == {"data"}
    assert found["gap"] == pytest.approx(0, abs=1e-3) and found["lower_bound"] <= found["step_time_s"] * (
        1 + 1e-9
    )
    assert found["tokens_per_s"] == pytest.approx(32 * 256 / found["step_time_s"])
    assert found["kept_whole"]["flops"] < 0.02 and found["kept_whole"]["bytes"] < 0.02


def test_one_sequence_on_many_devices_splits_what_is_in_it() -> None:
    found = moai.plan("gpt2", batch=1, seq=1024, cluster="h100:8")
    assert found["fits"] and "data" not in axes(found)


def test_a_batch_that_does_not_fit_is_gone_through_in_parts() -> None:
    found = moai.plan("gpt2", batch=256, seq=512, cluster="rtx3090:2")
    assert found["fits"] and found["micro_batches"] > 1
    assert found["peak_bytes"] <= found["cluster"]["memory_bytes"]


def test_the_same_question_has_the_same_answer() -> None:
    def answer() -> dict:
        found = moai.plan("gpt2", batch=8, seq=128, cluster="a100-80:2x2")
        return {k: v for k, v in found.items() if k not in ("plan_seconds", "runners_up")}

    assert answer() == answer()


def test_the_command_prints_and_writes_what_the_function_returns(capsys, tmp_path) -> None:
    path = tmp_path / "plan.json"
    arguments = ["plan", "--model", "gpt2", "--batch", "8", "--seq", "128", "--cluster", "h100:2"]
    assert main([*arguments, "--json", str(path)]) == 0
    said = capsys.readouterr().out
    found = json.loads(path.read_text())
    assert found.keys() >= KEYS and found["plan_seconds"].keys() >= {"record", "rules", "search", "total"}
    for words in (
        "fits         yes",
        found["layout"],
        "tokens/sec predicted",
        "planned in",
        "not planned yet",
    ):
        assert words in said
    assert main([*arguments, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["layout"] == found["layout"]


def test_a_model_too_large_is_told_by_how_much(capsys) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    status = main(["plan", "--model", "llama3-8b", "--batch", "1", "--seq", "128", "--cluster", "rtx3090:1"])
    said = capsys.readouterr().out
    assert status == 1 and "fits         no: " in said and "GiB too many" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "gtp2", "--batch", "8", "--seq", "8", "--cluster", "h100:8"], "unknown model 'gtp2': choose from gpt2,"),
        (["--model", "gpt2", "--batch", "8", "--seq", "8", "--cluster", "h1000:8"], "unknown device `h1000`"),
        (["--model", "gpt2", "--batch", "0", "--seq", "8", "--cluster", "h100:8"], "not 0 x 8"),
        (
            ["--model", "gpt2", "--batch", "8", "--seq", "8", "--cluster", "h100:8", "--micro-batches", "3"],
            "3 micro-batches do not divide a batch of 8",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_refused(arguments: list[str], said: str, capsys) -> None:
    assert main(["plan", *arguments]) == 2
    assert said in capsys.readouterr().err
