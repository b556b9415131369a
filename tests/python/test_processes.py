"""Ends of a process, Ctrl-C, and forks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler

import moai
import pytest
import torch
from torch import nn

BEGIN = """
import signal, threading, torch, moai
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)
x = torch.ones(64, 64, device="moai")
for _ in range(50): x = x @ x * 1e-2
"""
ENDS = {  # code, exit status, what stderr holds
    "with_a_backward_queued": ("m = torch.nn.Linear(64, 64).to('moai'); m(x).sum().backward()", 0, ""),
    "in_the_middle_of_a_step": (
        "torch.nn.Linear(64, 64).to('moai')(x); raise KeyError('mine')",
        1,
        "KeyError: 'mine'",
    ),
    "while_a_thread_records": (
        "threading.Thread(target=lambda: [x.add_(1) for _ in range(99)]).start()",
        0,
        "",
    ),
    "with_a_tensor_in_a_cycle": ("class A: pass\na = A(); a.a, a.x = a, x", 0, ""),
    "within_a_trace": ("moai.trace('/dev/null').__enter__()", 0, ""),
    "within_a_dry_run": ("moai.dry_run().__enter__(); y = x + 1", 0, ""),
}


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", BEGIN + code], capture_output=True, text=True, timeout=60)


SLOW = ("with_a_tensor_in_a_cycle", "within_a_trace", "within_a_dry_run")  # rarer; each costs an import


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        pytest.param(*end, id=name, marks=pytest.mark.slow if name in SLOW else ())
        for name, end in ENDS.items()
    ],
)
def test_a_process_ends_cleanly(code, status, said) -> None:
    done = python(code)
    assert done.returncode == status and said in done.stderr
    assert said or done.stderr == ""


LOOPS = {
    "reading": "x.sum().item()",
    "recording": "x = x @ x * 1e-2",
}


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_ctrl_c_ends_a_loop_as_it_ends_python(loop) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", f"{BEGIN}print('go', flush=True)\nwhile True: {loop}\n"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "go\n"
        threading.Timer(0.3, process.send_signal, [signal.SIGINT]).start()
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode in (1, 130, -signal.SIGINT)
    assert said.rstrip().endswith("KeyboardInterrupt") and "terminate" not in said


def test_after_ctrl_c_the_next_cell_works() -> None:
    done = python(
        "import _thread\nthreading.Timer(0.3, _thread.interrupt_main).start()\n"
        "try:\n    while True: x = x @ x * 1e-2; x.sum().item()\n"
        "except KeyboardInterrupt: print('ended')\n"
        "print((torch.ones(3, device='moai') * 2).sum().item())\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended\n6.0\n", "")


def in_a_fork(use: Callable[[], object]) -> str:
    """What `use` raised in a forked child, or what it returned there."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = str(use())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as text:
        said = text.read()
    os.waitpid(child, 0)
    return said


FORKED = {
    "computing": lambda: torch.ones(1, device="moai").sum().item(),
    "moving": lambda: torch.ones(3).to("moai").cpu(),
    "synchronizing": lambda: [torch.ones(1, device="moai") + 1, moai.sync()],
    "training": lambda: nn.Linear(2, 2).to("moai")(torch.ones(1, 2, device="moai")).sum().backward(),
}


@pytest.mark.parametrize("use", FORKED.values(), ids=FORKED)
def test_a_forked_child_is_told_and_its_parent_goes_on(use) -> None:
    kept = torch.ones(1, device="moai") + 1
    kept.item()
    queued = torch.ones(500, 500, device="moai")
    for _ in range(20):
        queued = queued @ queued / 500
    torch.moai.Event(enable_timing=True).record()  # launches, and waits for nothing
    said = in_a_fork(use)
    assert said.startswith("RuntimeError") and "fork" in said
    assert (kept + 1).item() == 3 and queued.sum().item() == pytest.approx(250_000)


def test_a_forked_child_may_use_the_cpu() -> None:
    (torch.ones(1, device="moai") + 1).item()
    assert in_a_fork(lambda: torch.arange(4.0).sum().item()) == "6.0"


@pytest.mark.parametrize("strategy", sorted(torch.multiprocessing.get_all_sharing_strategies()))
def test_a_tensor_that_is_sent_to_another_process_says_what_to_do(strategy) -> None:
    before = torch.multiprocessing.get_sharing_strategy()
    torch.multiprocessing.set_sharing_strategy(strategy)
    try:
        for sent in (
            torch.ones(2, device="moai"),
            nn.Linear(2, 2).to("moai"),
            torch.ones(2, device="moai").storage(),
        ):
            with pytest.raises(RuntimeError, match=r"send tensor\.cpu\(\), and move it there"):
                ForkingPickler.dumps(sent)
        ForkingPickler.dumps(torch.ones(2))
    finally:
        torch.multiprocessing.set_sharing_strategy(before)


def test_a_forked_child_that_recorded_nothing_waits_for_nothing() -> None:
    (torch.ones(1, device="moai") + 1).item()
    assert in_a_fork(moai.sync) == "None"


THREADS = """
import os, torch, moai
from torch import nn
def threads():
    return len(os.listdir("/proc/self/task"))
torch.set_num_threads(2)
net = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64)).to("moai")
optimizer = torch.optim.AdamW(net.parameters(), fused=True)
def step():
    net(torch.ones(1024, 64, device="moai")).square().mean().backward()
    optimizer.step()
step()
moai.sync()
before = threads()
torch.ones(1 << 20).sin()
while_computing = threads()
step()
print(before, while_computing, threads(), sum(open(f"/proc/self/task/{t}/comm").read() == "pt_autograd_0\\n" for t in os.listdir("/proc/self/task")))
"""


def test_only_devices_keep_threads_at_hand() -> None:
    """Else OpenMP has more than cores, and those of the devices sleep between ops."""
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, timeout=60)
    before, while_computing, after, of_autograd = map(int, done.stdout.split())
    assert while_computing == before + 1
    assert after == before
    assert of_autograd == 1
