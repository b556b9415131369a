"""Plans that one process finds and another follows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import moai
import pytest
import torch
from moai import options

# Trains on several devices, evaluates in between, and says what came out and how many plans it had to search for.
SCRIPT = """
import json, torch, moai
torch.manual_seed(0)
layers = torch.nn.Linear(16, 64), torch.nn.GELU(), torch.nn.Linear(64, 64), torch.nn.GELU(), torch.nn.Linear(64, 4)
model = torch.nn.Sequential(*layers).to("moai")
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
losses = []
for step in range(4):
    x = torch.randn(12, 16).to("moai")
    loss = torch.nn.functional.mse_loss(model(x), x[:, :4])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
    with torch.no_grad():
        losses.append(model(x).sum().item())
found = moai.stats()
print(json.dumps([losses, found["plans_searched"], found["plans_kept"]]))
"""


def run(cache: Path | str, **variables: str) -> tuple[list[float], int, int]:
    env = os.environ | {"MOAI_DEVICES": "cpu:4", "MOAI_CACHE": str(cache)} | variables
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return tuple(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("devices", "plan"),
    [
        ("cpu:4", "fastest"),
        ("cpu:4", "dp=2,tp=2"),
        ("cpu:4", "dp=4,zero=3,micro=3"),
        ("cpu:4", "pp=2,micro=2"),
        ("cpu:2", "pp=2,micro=2"),
    ],
)
def test_a_second_process_searches_for_nothing_and_gets_the_same_numbers(
    tmp_path: Path, devices: str, plan: str
) -> None:
    first, searched, kept = run(tmp_path, MOAI_DEVICES=devices, MOAI_PLAN=plan)
    assert searched > 0 and kept == 0
    again, *plans = run(tmp_path, MOAI_DEVICES=devices, MOAI_PLAN=plan)
    assert plans == [0, searched]
    assert again == first


def test_other_settings_are_other_questions(tmp_path: Path) -> None:
    run(tmp_path)
    for variables in ({"MOAI_DEVICES": "cpu:3"}, {"MOAI_DEVICE_MEMORY": "1GiB"}, {"MOAI_PLAN": "dp=4"}):
        assert run(tmp_path, **variables)[2] == 0


def test_damaged_files_are_replaced(tmp_path: Path) -> None:
    first, searched, _ = run(tmp_path)
    files = sorted(tmp_path.glob("plans/*"))
    assert len(files) == searched
    for number, file in enumerate(files):
        content = file.read_bytes()
        file.write_bytes([b"", content[: len(content) // 2], content.replace(b"split", b"spilt")][number % 3])
    assert run(tmp_path) == (first, searched, 0)
    assert run(tmp_path) == (first, 0, searched)


@pytest.mark.parametrize("cache", ["off", "/proc/version/no/folder"])
def test_without_a_folder_nothing_is_kept(tmp_path: Path, cache: str) -> None:
    for _ in range(2):
        assert run(cache, HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))[2] == 0
    assert list(tmp_path.iterdir()) == []


def test_processes_at_once_share_a_folder(tmp_path: Path) -> None:
    env = os.environ | {"MOAI_DEVICES": "cpu:2", "MOAI_CACHE": str(tmp_path)}
    started = [
        subprocess.Popen([sys.executable, "-c", SCRIPT], env=env, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    results = [json.loads(process.communicate()[0]) for process in started]
    assert results[0][0] == results[1][0] == results[2][0]
    assert all(file.suffix == ".plan" for file in tmp_path.glob("plans/*"))


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert options.parse_cache("") == "/xdg/moai"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert options.parse_cache("") == "/home/somebody/.cache/moai"
    assert options.parse_cache("~/here") == "/home/somebody/here"
    assert options.parse_cache("off") == ""


def test_configure_takes_a_folder(tmp_path: Path) -> None:
    before = options.value("cache")
    moai.configure(devices="cpu:2", cache=str(tmp_path))
    try:
        weight = torch.ones(4, 4, device="moai", requires_grad=True)
        (weight @ weight).sum().backward()
        weight.grad.cpu()
    finally:
        moai.configure(devices="cpu", cache=before)
    assert list(tmp_path.glob("plans/*.plan"))
