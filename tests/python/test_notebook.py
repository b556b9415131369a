"""Cells of a notebook that fail or are interrupted: the next cell works, and what was computed before is as it was.

Cells run one by one through Python's own console, in a process of its own where the device's memory is limited.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import moai
import pytest
import torch

CONSOLE = """
import code, sys, torch, warnings
torch.set_num_threads(1)
console = code.InteractiveConsole()
for cell in sys.stdin.read().split("\\n# cell\\n"):
    console.runcode(compile(cell, "<cell>", "exec"))
    print("----")
"""

BEGIN = """
import torch, moai
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Embedding(10, 256), torch.nn.Linear(256, 256), torch.nn.Linear(256, 4)).to("moai")
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
def step(rows):
    optimizer.zero_grad()
    loss = model(rows.to("moai")).square().mean()
    loss.backward()
    optimizer.step()
    return loss
def state():
    kept = [*model.parameters(), *(v for s in optimizer.state.values() for v in s.values())]
    return [t.detach().cpu().clone() for t in kept]
rows = torch.arange(8) % 10
"""


def run_cells(*cells: str, memory: str = "") -> list[tuple[str, str]]:
    """What each cell prints, and the error that ended it, last line first; runs as a user would type them."""
    run = subprocess.run(
        [sys.executable, "-c", CONSOLE],
        input="\n# cell\n".join(textwrap.dedent(cell) for cell in cells),
        env=os.environ | {"MOAI_DEVICE_MEMORY": memory},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    printed = [part.strip() for part in run.stdout.split("----\n")][:-1]
    assert len(printed) == len(cells)
    return printed, run.stderr


MISTAKES = {
    "IndexError": "step(torch.tensor([3, 99])).item()",
    "OutOfMemoryError": "step(torch.arange(200000) % 10).item()",
    "KeyboardInterrupt": """
        import _thread, threading
        threading.Timer(0.3, _thread.interrupt_main).start()
        while True:
            (model[1].weight @ model[1].weight).sum().item()
        """,
    "ZeroDivisionError": "with torch.no_grad(): out = model(rows.to('moai')) / (1 // 0)",
}


@pytest.mark.parametrize("good_steps", [1, 3])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_after_a_cell_that_fails_the_weights_are_as_before_and_the_next_cell_works(mistake, good_steps):
    printed, said = run_cells(
        BEGIN,
        f"for _ in range({good_steps}): step(rows)\nbefore = state()",
        MISTAKES[mistake],
        "print(all(torch.equal(a, b) for a, b in zip(before, state())))",
        "print(0 < step(rows).item() != step(rows).item(), moai.stats()['failures'])",
        memory="32MiB",
    )
    failed = int(mistake in ("IndexError", "OutOfMemoryError"))
    assert printed[3:] == ["True", f"True {failed}"]
    assert f"{mistake}" in said.rstrip().splitlines()[-1] or f"{mistake}: " in said
    assert said.count("Traceback") == 1


def test_memory_that_runs_out_says_what_was_asked_what_is_free_and_what_to_do():
    _, said = run_cells(
        BEGIN,
        "kept = torch.ones(1 << 20).to('moai'); moai.sync()",
        MISTAKES["OutOfMemoryError"],
        memory="32MiB",
    )
    assert "torch.OutOfMemoryError: moai run: out of memory: " in said
    assert "MiB asked for, " in said and "MiB free of 32.0 MiB (MOAI_DEVICE_MEMORY)" in said
    assert "would work: a smaller batch" in said and "while moai ran aten." in said and "<cell>" in said


def test_what_was_written_before_the_memory_ran_out_is_taken_back():
    printed, said = run_cells(
        "import torch, moai\na = torch.arange(4.0).to('moai')\nmoai.sync()",
        """
        for _ in range(3):  # for the first time, and by a plan
            try:
                a.add_(1)
                b = (torch.ones(1 << 22, device='moai') * 2).cumsum(0)
                moai.sync()
            except torch.OutOfMemoryError:
                print(a.tolist())
        """,
        "print((a + 1).tolist())",
        memory="8MiB",
    )
    assert printed[1].splitlines() == ["[0.0, 1.0, 2.0, 3.0]"] * 3 and printed[2] == "[1.0, 2.0, 3.0, 4.0]"
    assert said == ""


def test_a_copy_from_the_host_finds_the_room_that_what_is_recorded_leaves():
    printed, said = run_cells(
        "import torch, moai",
        """
        total = torch.zeros((), device='moai')
        for n in range(40):  # each batch is 1 MiB and no longer needed once it is summed
            total = total + torch.full((1 << 18,), float(n)).to('moai').sum()
        print(total.item() == sum(range(40)) * (1 << 18))
        """,
        memory="16MiB",
    )
    assert printed[1] == "True" and said == ""


def test_printing_values_compiles_nothing():
    def show(x: torch.Tensor) -> None:
        assert "device='moai:0'" in f"{x} {x[0]!r} {x.sum():.2f} {x[1, 2].item()} {x.tolist()}"

    first = torch.arange(12.0).view(3, 4).to("moai")
    for n in range(3):
        show(first * (n + 0.5))
    before = moai.stats()["compiles"]
    for n in range(5):
        show(first * (n + 1.5))
    assert moai.stats()["compiles"] == before


OFFERED = ["sync", "stats", "reset_stats", "dump", "plan", "trace", "dry_run"]


@pytest.mark.parametrize("name", OFFERED)
def test_what_moai_offers_has_a_help_text(name):
    text = getattr(moai, name).__doc__
    assert text and text[0].isupper() and len(text.split()) > 5


def test_help_shows_what_moai_offers_and_nothing_else():
    import pydoc

    shown = pydoc.render_doc(moai, renderer=pydoc.plaintext)
    assert "a PyTorch device behind which a whole cluster looks like one" in shown
    for name in OFFERED:
        assert f"    {name}(" in shown
    assert "importlib" not in shown and "_register" not in shown and "contextlib" not in shown


def test_reprs_name_the_device():
    assert repr(torch.ones(2, device="moai")) == "tensor([1., 1.], device='moai:0')"
    assert repr(torch.device("moai")) == "device(type='moai')"
    assert "moai" in repr(torch.Generator("moai").device)
    assert "moai" in repr(torch.moai.current_stream())
    assert torch.moai.memory_summary().startswith("moai: allocated ")
