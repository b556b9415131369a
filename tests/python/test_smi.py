"""``moai smi``: what it says of processes that use moai, that stopped, and that never did."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from moai import options, smi
from moai.cli import main

# Trains until its input ends; says when it has begun.
TRAINS = """
import select, sys, torch, moai
model = torch.nn.Linear(64, 64).to("moai")
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
step = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    optimizer.zero_grad()
    model(torch.randn(32, 64).to("moai")).square().mean().backward()
    optimizer.step()
    moai.count_tokens(32)
    moai.sync()
    step += 1
    if step == 3:
        print("began", flush=True)
"""
DEADLINE_S = 60


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's processes show themselves, and nobody else's."""
    path = tmp_path / "status"
    monkeypatch.setenv("MOAI_STATUS", str(path))
    return path


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts a script that runs until its input is closed; none is left at the end."""
    started = []

    def one(script: str = TRAINS, **variables: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | variables,
        )
        started.append(process)
        assert process.stdout.readline() == "began\n"
        return process

    yield one
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            stream.close()


def until(happens: Callable[[], object]) -> object:
    """Return what `happens` returns as soon as that is true."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        found = happens()
        if found:
            return found
    raise AssertionError("it did not happen")


def seen(capsys: pytest.CaptureFixture, *words: str) -> str:
    capsys.readouterr()
    assert main(["smi", *words]) == 0
    return capsys.readouterr().out


def test_a_training_process_is_shown(start: Callable, capsys: pytest.CaptureFixture) -> None:
    process = start(MOAI_DEVICES="cpu:2", MOAI_DEVICE_MEMORY="1GiB", MOAI_PLAN="dp=2")

    def moved() -> list[dict]:
        rows = json.loads(seen(capsys, "--json"))
        return rows if rows and rows[0]["steps_per_second"] else []

    (row,) = until(moved)
    assert row["pid"] == process.pid
    assert row["command"].startswith(f"{sys.executable} -c")
    assert row["steps"] >= 3
    assert row["tokens_per_second"] == pytest.approx(32 * row["steps_per_second"], rel=0.5)
    assert row["layout"].startswith("data 2")
    assert [device["name"] for device in row["devices"]] == ["cpu:0", "cpu:1"]
    for device in row["devices"]:
        assert 0 < device["used_bytes"] <= device["peak_bytes"] <= device["limit_bytes"] == 2**30
        assert 0 < device["busy"] <= 1
    text = seen(capsys)
    assert f"{process.pid}  {sys.executable}" in text and "tokens/sec" in text and "data 2" in text
    assert text.count("1.0 GiB") == 2
    process.stdin.close()
    assert process.wait(DEADLINE_S) == 0
    assert seen(capsys, "--json") == "[]\n"
    assert seen(capsys) == "no process of yours uses moai now\n"


def test_a_process_that_was_killed_is_forgotten_and_its_file_removed(
    start: Callable, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    process = start()
    assert [path.name for path in folder.iterdir()] == [str(process.pid)]
    process.kill()
    process.wait()
    assert seen(capsys, "--json") == "[]\n"
    assert list(folder.iterdir()) == []


def test_a_stopped_process_is_idle_and_hangs_nobody(start: Callable, capsys: pytest.CaptureFixture) -> None:
    process = start()
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)  # its threads stop one after the other
    (row,) = json.loads(seen(capsys, "--json"))
    assert row["pid"] == process.pid and row["steps_per_second"] == 0
    process.send_signal(signal.SIGCONT)


def test_a_number_that_another_process_has_now_is_not_the_one_before(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    """A file of this process's number, begun at another time: left behind by one that had it before."""
    folder.mkdir(mode=0o700)
    page = smi.HEAD.pack(smi.MAGIC, smi.VERSION, 1, os.getpid(), 1, 0, 0, 0, b"") + smi.DEVICE.pack(
        *[0] * 7, b"cpu:0"
    )
    path = folder / str(os.getpid())
    path.write_bytes(page)
    assert seen(capsys, "--json") == "[]\n"
    assert not path.exists()
    mine = smi.began(os.getpid())
    path.write_bytes(page.replace(struct.pack("<2q", os.getpid(), 1), struct.pack("<2q", os.getpid(), mine)))
    assert json.loads(seen(capsys, "--json"))[0]["pid"] == os.getpid()


@pytest.mark.parametrize(
    "content", [b"", b"x", b"moaismi1", b"moaismi1" + bytes(2000), bytes(5000), b"\xff" * 5000]
)
def test_what_is_no_page_is_passed_over(folder: Path, capsys: pytest.CaptureFixture, content: bytes) -> None:
    folder.mkdir(mode=0o700)
    (folder / str(os.getpid())).write_bytes(content)
    (folder / "README").write_text("not a number")
    assert seen(capsys, "--json") == "[]\n"
    assert (folder / "README").exists()


def test_a_text_that_changes_while_it_is_read_is_read_again() -> None:
    class Changing(bytes):
        reads = 0

        def __getitem__(self, item):  # the first look is in the middle of a change
            Changing.reads += 1
            changes, text = (1, b"ha") if Changing.reads == 1 else (2, b"whole")
            head = smi.HEAD.pack(smi.MAGIC, smi.VERSION, 0, 5, 0, 0, 0, changes, text)
            return head[item]

    assert smi.read_page(Changing(smi.HEAD.size), 0).layout == "whole"


def test_a_device_in_a_run_counts_for_as_busy_as_it_was() -> None:
    def page(busy: int, waited: int, since: int) -> bytes:
        head = smi.HEAD.pack(smi.MAGIC, smi.VERSION, 1, 5, 0, 0, 0, 0, b"data 2\0rest")
        return head + smi.DEVICE.pack(1, 2, 3, -1, busy, waited, since, b"cpu:0")

    second = 10**9
    before = smi.read_page(page(0, 0, 0), 10 * second)
    assert before.layout == "data 2" and before.devices[0].limit_bytes is None
    for busy, waited, since, share in [
        (second, 0, 0, 0.5),  # ran half of the time, and ended
        (0, 0, 11 * second, 0.5),  # is in its first run
        (second, second, 0, 0.5),  # waited for others the rest
        (second, second, 11 * second, 0.75),
        (0, 0, 0, 0.0),
    ]:
        after = smi.read_page(page(busy, waited, since), 12 * second)
        (row,) = smi.rows_of({5: before}, {5: after})
        assert row["devices"][0]["busy"] == pytest.approx(share)


def test_lines_are_never_wider_than_the_terminal() -> None:
    device = {"name": "cpu:0", "used_bytes": 2**40, "peak_bytes": 2**40, "limit_bytes": None, "busy": 1.0}
    row = {
        "pid": 4194304,
        "command": "python " + "long " * 99,
        "steps": 10**9,
        "steps_per_second": 1e4,
        "tokens_per_second": 1e9,
        "layout": "data 2 x tensor 8; weights and states in 16 parts; 64 micro-batches; recompute selective",
        "devices": [device, device | {"busy": None}],
    }
    for width in (20, 80, 200):
        assert max(map(len, smi.lines_of([row, row], width))) <= width
    lines = smi.lines_of([row], 80)
    assert lines[-2].endswith("100 %  ##########") and lines[-1].endswith("?")


def test_it_looks_again_until_ctrl_c(start: Callable) -> None:
    start()
    command = [sys.executable, "-m", "moai", "smi", "-l", "0.2", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        looks = [json.loads(watching.stdout.readline()) for _ in range(3)]
        watching.send_signal(signal.SIGINT)
        assert watching.wait(DEADLINE_S) == 0
        assert watching.stderr.read() == ""
    assert all(len(rows) == 1 for rows in looks)
    assert looks[0][0]["steps"] <= looks[1][0]["steps"] <= looks[2][0]["steps"]


def test_on_a_terminal_it_writes_over_what_it_wrote(folder: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "moai", "smi", "-l", "0.1"]
    with subprocess.Popen(command, stdout=theirs) as watching:
        text = b""
        while text.count(b"no process of yours") < 2:
            assert select.select([ours], [], [], DEADLINE_S)[0]
            text += os.read(ours, 4096)
        watching.send_signal(signal.SIGINT)
        assert watching.wait(DEADLINE_S) == 0
    os.close(ours)
    os.close(theirs)
    assert text.count(b"\x1b[H") >= 2 and b"\x1b[J" in text


def test_without_a_terminal_lines_are_plain(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert "\x1b" not in seen(capsys)


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
def test_seconds_must_be_above_none(seconds: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["smi", "-l", seconds]) == 2
    assert "give seconds above 0" in capsys.readouterr().err


def test_a_process_that_never_uses_moai_has_no_file_and_no_thread(folder: Path) -> None:
    code = "import threading, torch, moai; print(threading.active_count(), len(list(__import__('os').scandir('/proc/self/task'))))"
    bare = "import threading, torch; print(threading.active_count(), len(list(__import__('os').scandir('/proc/self/task'))))"
    env = os.environ | {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    counts = [subprocess.check_output([sys.executable, "-c", text], env=env) for text in (code, bare)]
    assert counts[0] == counts[1]
    assert not folder.exists()


def test_a_forked_child_has_no_file_and_leaves_its_parents(folder: Path) -> None:
    code = """
import os, torch, moai
torch.ones(2, device="moai").sum().item()
before = os.listdir(os.environ["MOAI_STATUS"])
child = os.fork()
if child == 0:
    raise SystemExit(0)
assert os.waitpid(child, 0)[1] == 0
assert os.listdir(os.environ["MOAI_STATUS"]) == before == [str(os.getpid())]
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert list(folder.iterdir()) == []


def test_off_shows_nothing(tmp_path: Path) -> None:
    code = "import torch, moai; torch.ones(2, device='moai').sum().item()"
    env = os.environ | {"MOAI_STATUS": "off", "XDG_RUNTIME_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert options.parse_status("") == f"{tmp_path}/moai"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "gone"))
    assert options.parse_status("") != f"{tmp_path}/gone/moai"
    assert options.status_folders()[-1] == f"/tmp/moai-{os.getuid()}"
