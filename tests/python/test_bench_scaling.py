"""``moai bench`` and ``moai.explain`` on several devices."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import moai
import pytest
import torch
from moai.bench import options, scaling, story
from moai.bench.errors import BadInput
from moai.cli import main
from test_bench import assert_that_a_signal_ends_it
from test_devices import devices
from torch import nn


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 800)
    return str(path)


def bench_process(*options: str, devices: str = "cpu") -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "moai", "bench", "--model", "tiny", "--sample-bytes", "0", *options]
    env = os.environ | {"MOAI_DEVICES": devices}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def test_several_devices_say_their_plan_and_learn_the_same(data: str) -> None:
    runs = {
        devices: bench_process("--steps", "4", "--data", data, devices=devices).stdout
        for devices in ("cpu", "cpu:2", "cpu:4")
    }
    losses = {devices: re.findall(r"Loss: (\d+\.\d{4})", said) for devices, said in runs.items()}
    assert len(losses["cpu"]) == 4 and losses["cpu"] == losses["cpu:2"] == losses["cpu:4"]
    assert "plan   " not in runs["cpu"]
    for count in (2, 4):
        plan, predicted, chosen = runs[f"cpu:{count}"].split("[Step 1/4]")[0].splitlines()[-3:]
        assert plan.startswith("plan ") and f"{count} devices: " in plan
        assert predicted.startswith("predicted ") and "s a step" in predicted and "MiB on each" in predicted
        assert chosen.startswith("chosen ")


def test_numbers_of_devices_take_turns(data: str, tmp_path: Path) -> None:
    path = tmp_path / "scaling.json"
    run = bench_process("--steps", "4", "--data", data, "--devices", "1,2", "--json", str(path))
    assert run.returncode == 0, run.stderr
    results = json.loads(path.read_text())
    assert set(results["devices"]) == {"1", "2"} and results["devices"]["1"]["ratio"] == 1.0
    one, two = (results["devices"][n]["last_loss"] for n in "12")
    assert one == pytest.approx(two, rel=1e-4)
    assert run.stdout.count("tokens/sec") == 2 * results["rounds"] + 2


@pytest.mark.parametrize("numbers", ["", "1,x", "0", "2,2", "1,"])
def test_numbers_of_devices_that_are_none(numbers: str) -> None:
    with pytest.raises(BadInput, match="give different numbers of devices, such as 1,2,4"):
        scaling.counts_of(numbers)


def test_the_main_job_runs_on_four_devices_where_nothing_is_said(data: str) -> None:
    command = [sys.executable, "-m", "moai", "bench", "--model", "tiny", "--steps", "2", "--data", data]
    env = {name: text for name, text in os.environ.items() if name != "MOAI_DEVICES"}
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout
    assert re.search(r"^plan +4 devices: ", said, re.MULTILINE)


def test_the_number_of_devices_and_their_memory_are_options(data: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    common = ["--data", data, "--devices", "3", "--device-memory"]
    run = bench_process("--steps", "2", "--json", str(path), *common, "1GiB")
    assert run.returncode == 0, run.stderr
    assert re.search(r"^plan +3 devices: ", run.stdout, re.MULTILINE)
    assert json.loads(path.read_text())["plan"]["layout"]
    for wrong in ("1parsec", "10KiB"):
        run = bench_process("--steps", "2", *common, wrong)
        assert run.returncode != 0 and "Traceback" not in run.stderr, run.stderr


# ---- The story of a batch that outgrows its devices


def results_like(argv: list[str]) -> dict:
    batch = options.PRESETS[argv[argv.index("--preset") + 1]]["batch"]
    return {
        "throughput": {"tokens_per_second": {16: 100.0, 64: 200.0, 512: 300.0}[batch]},
        "plan": {"layout": "data 16; 4 micro-batches" if batch == 512 else "data 4"},
        "losses": [[1, 2.0]],
        "cpu_seconds": 1.0,
    }


def test_the_story_compares_the_largest_batch_with_the_one_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    ran = []
    monkeypatch.setattr(story, "one_run", lambda name, argv: ran.append((name, argv)) or results_like(argv))
    path = tmp_path / "story.json"
    assert main(["bench", "--preset", "story", "--steps", "7", "--json", str(path)]) == 0
    assert [name for name, _ in ran[:3]] == ["16 on 4", "64 on 16", "512 on 16, 64MiB each"]
    assert ran[3:6] == ran[:3][::-1] and len(ran) == 3 * story.ROUNDS
    assert all(argv[argv.index("--steps") + 1] == "7" and "--json" not in argv for _, argv in ran)
    assert json.loads(path.read_text())["ratio"] == 1.5
    assert "each token   1.500 x (1.500 to 1.500) of 64 on 16, 512 on 16" in capsys.readouterr().out


def test_a_story_without_micro_batches_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    plain = {"plan": {"layout": "data 16"}}
    monkeypatch.setattr(story, "one_run", lambda name, argv: results_like(argv) | plain)
    assert main(["bench", "--preset", "story"]) == 1
    assert "512 on 16, 64MiB each fitted at once: lower --device-memory" in capsys.readouterr().err


@pytest.mark.slow
def test_512_on_16_devices_are_gone_through_in_parts(data: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    long = tmp_path / "long.txt"
    long.write_text(Path(data).read_text() * 4)
    command = [
        sys.executable,
        "-m",
        "moai",
        "bench",
        "--preset",
        "story-512x16",
        "--steps",
        "2",
        "--data",
        str(long),
    ]
    run = subprocess.run([*command, "--json", str(path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "micro-batches" in json.loads(path.read_text())["plan"]["layout"]
    assert re.search(r"^plan +16 devices: .* micro-batches", run.stdout, re.MULTILINE)


def test_a_signal_ends_a_run_on_several_devices(data: str) -> None:
    assert_that_a_signal_ends_it(data, MOAI_DEVICES="cpu:3")


def test_explain_holds_what_was_measured_beside_the_prediction() -> None:
    assert moai.explain() == ""
    with devices(2, "dp=2"):
        model = nn.Linear(6, 3).to("moai")
        optimizer = torch.optim.AdamW(model.parameters())
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.randn(8, 6).to("moai")).square().sum().backward()
            optimizer.step()
        moai.sync()
        rows = dict(re.split(r"  +", line, maxsplit=1) for line in moai.explain().splitlines())
    assert rows["plan"].startswith("2 devices: data 2")
    assert re.match(r"\d\.\d{4} s a step", rows["predicted"])
    assert re.fullmatch(r"over the last [1-5] steps:", rows["measured"])
    seconds = {
        name: float(re.match(r"(\d\.\d{4}) s \(.*\), \d\.\d{4} predicted", rows[name])[1])
        for name in ("compute", "communication", "waiting", "step")
    }
    assert seconds["step"] > 0
    assert rows["step"].endswith(" x") and rows["waiting"].endswith(", 0.0000 predicted")
    assert rows["peak memory"].count("cpu:") == 2
