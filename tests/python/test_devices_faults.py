"""What goes wrong on one of four devices: told with device and op, state as before, no thread left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import moai
import pytest
import torch
from test_devices import devices
from torch import nn


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def embedding_step(model: nn.Embedding, optimizer: torch.optim.Optimizer, rows: torch.Tensor) -> None:
    optimizer.zero_grad()
    model(rows.to("moai")).square().sum().backward()
    optimizer.step()
    moai.sync()


def test_a_device_that_throws_is_named_with_its_op_and_the_others_go_on() -> None:
    with devices(4, "dp=4"):
        torch.manual_seed(0)
        model = nn.Embedding(10, 8).to("moai")
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        rows = torch.arange(8)
        embedding_step(model, optimizer, rows)
        count = threads()
        for bad in range(8):  # each device has two
            before = model.weight.detach().cpu()
            wrong = rows.clone()
            wrong[bad] = 99
            with pytest.raises(IndexError, match="aten.embedding") as raised:
                embedding_step(model, optimizer, wrong)
            assert f"cpu:{bad // 2}" in str(raised.value)
            assert torch.equal(model.weight.detach().cpu(), before)
            embedding_step(model, optimizer, rows)
            assert not torch.equal(model.weight.detach().cpu(), before)
        assert threads() == count


def test_a_device_without_memory_is_named_and_the_state_stays() -> None:
    moai.configure(devices="cpu:4", device_memory="8MiB", plan="random:1")
    try:
        weight = torch.ones(64, 64, device="moai")
        moai.sync()
        with pytest.raises(torch.OutOfMemoryError, match=r"out of memory on cpu:\d.*MOAI_DEVICE_MEMORY"):
            (torch.ones(4096, 4096, device="moai") * 2).sum().item()
        assert weight.sum().item() == 64 * 64
        assert (weight @ weight).sum().item() == 64**3
    finally:
        moai.configure(devices="cpu", device_memory="", plan="fastest")


def test_devices_that_go_leave_no_thread() -> None:
    before = None  # torch has threads of its own, from its first work on
    for count in (2, 4, 8, 3):
        with devices(count):
            torch.ones(8, 8, device="moai").sum().item()
            assert before is None or threads() >= before + count - 1
            with pytest.raises(IndexError):
                nn.functional.embedding(
                    torch.tensor([9] * 8).to("moai"), torch.ones(4, 5, device="moai")
                ).cpu()
        torch.ones(2, device="moai").sum().item()
        before = before or threads()
        assert threads() == before


CTRL_C = """
import signal, sys, torch, moai
model = torch.nn.Sequential(*[torch.nn.Linear(256, 256) for _ in range(8)]).to("moai")
optimizer = torch.optim.AdamW(model.parameters())
def step():
    optimizer.zero_grad()
    model(torch.ones(64, 256, device="moai")).square().mean().backward()
    optimizer.step()
for _ in range(3):
    step()
moai.sync()
try:
    print("go", flush=True)  # from here on a signal may come
    while True:
        step()
except KeyboardInterrupt:
    print("interrupted", flush=True)
step()
print(torch.isfinite(model[0].weight).all().item(), flush=True)
"""


@pytest.mark.parametrize(
    "code", [CTRL_C, CTRL_C.replace("        step()\nexcept", "        step(); moai.sync()\nexcept")]
)
def test_ctrl_c_on_four_devices_ends_the_loop_and_the_next_cell_works(code: str) -> None:
    env = os.environ | {"MOAI_DEVICES": "cpu:4"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as run:
        assert run.stdout.readline() == "go\n"
        run.send_signal(signal.SIGINT)
        said, errors = run.communicate(timeout=60)
    assert (run.returncode, said, errors) == (0, "interrupted\nTrue\n", "")


def test_the_process_ends_while_its_devices_still_work(tmp_path: Path) -> None:
    code = CTRL_C.split("try:")[0] + "for _ in range(5):\n    step()\n"
    env = os.environ | {"MOAI_DEVICES": "cpu:4", "MOAI_STATUS": str(tmp_path / "status")}
    run = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert list((tmp_path / "status").iterdir()) == []
