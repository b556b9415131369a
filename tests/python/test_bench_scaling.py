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
from moai.bench import scaling
from moai.bench.errors import BadInput
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
        assert chosen.startswith("chosen in ")


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
    assert re.match(r"\d\.\d{4} s \(.* over [3-5] runs\), \d+\.\d\d of what was", rows["measured"])
    assert rows["peak memory"].count("cpu:") == 2
