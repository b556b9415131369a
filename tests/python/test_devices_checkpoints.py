"""State on several devices: saved while training goes on, cut off, loaded on other numbers of devices, read in parts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import moai
import pytest
import torch
import torch.distributed.checkpoint as dcp
from test_devices import Gpt, devices, tokens_loss
from torch import nn


def make() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Gpt(vocab=64, width=16, heads=4, seq=8).double().to("moai")
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    losses = []
    for step in steps:
        torch.manual_seed(step)
        tokens = torch.randint(64, (12, 9)).to("moai")
        optimizer.zero_grad()
        loss = tokens_loss(model, (tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


def load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    state = state_of(model, optimizer)
    dcp.load(state, checkpoint_id=path, no_dist=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])


def test_a_state_lies_on_any_number_of_devices(tmp_path: Path) -> None:
    """What a distributed checkpoint saved from some devices is loaded on another number of them."""
    with devices(4, "dp=4,zero=3"):
        model, optimizer = make()
        train(model, optimizer, range(2))
        dcp.save(state_of(model, optimizer), checkpoint_id=tmp_path / "saved", no_dist=True)
        train(model, optimizer, range(2, 4))
        wanted = [t.detach().cpu() for t in model.parameters()]
    with devices(3, "tp=3"):
        model, optimizer = make()
        train(model, optimizer, range(5, 6))  # another state, to be replaced
        load(tmp_path / "saved", model, optimizer)
        train(model, optimizer, range(2, 4))
        for ours, theirs in zip(model.parameters(), wanted, strict=True):
            torch.testing.assert_close(ours.detach().cpu(), theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("other", [(3, "tp=3"), (1, "fastest"), (4, "random:3")], ids=str)
def test_what_is_saved_while_training_goes_on_is_the_state_at_the_call(tmp_path: Path, other: tuple) -> None:
    with devices(4, "dp=4,zero=3"):
        model, optimizer = make()
        train(model, optimizer, range(2))
        saving = dcp.async_save(state_of(model, optimizer), checkpoint_id=tmp_path / "saved", no_dist=True)
        wanted = train(
            model, optimizer, range(2, 5)
        )  # the state that is being written is overwritten in place
        saving.result(timeout=60)
    with devices(*other):
        model, optimizer = make()
        train(model, optimizer, range(7, 8))  # another state, to be replaced
        load(tmp_path / "saved", model, optimizer)
        assert train(model, optimizer, range(2, 5)) == pytest.approx(wanted, rel=1e-9)


# ---- Cut off: complete or absent

SAVES = """
import os, resource, signal, sys, torch, moai
import torch.distributed.checkpoint as dcp
model = torch.nn.Linear(256, 256).to("moai")
optimizer = torch.optim.AdamW(model.parameters())
model(torch.ones(8, 256, device="moai")).sum().backward()
optimizer.step()
state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
"""
FULL = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # as a disk that is full after so many bytes
try:
    SAVE
except BaseException as error:  # as DCP's own is
    text = repr(error) + repr(error.__cause__)
    assert "File too large" in text or "Errno 27" in text or "unexpected pos" in text, text
else:
    raise SystemExit("nothing was told")
print(model(torch.ones(8, 256, device="moai")).sum().item())  # and all goes on
"""
KILLED = """
write = dcp.filesystem._write_item
def killed(*arguments, **more):
    write(*arguments, **more)
    os.kill(os.getpid(), signal.SIGKILL)
dcp.filesystem._write_item = killed
SAVE
"""
WAYS = {
    "save": "dcp.save(state, checkpoint_id=sys.argv[1], no_dist=True)",
    "async_save": "dcp.async_save(state, checkpoint_id=sys.argv[1], no_dist=True).result()",
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("script", "status"), [(FULL, 0), (KILLED, -signal.SIGKILL)], ids=["full", "killed"])
def test_a_checkpoint_that_was_cut_off_is_absent(tmp_path: Path, way: str, script: str, status: int) -> None:
    path = tmp_path / "saved"
    code = SAVES + script.replace("SAVE", WAYS[way])
    env = os.environ | {"MOAI_DEVICES": "cpu:4"}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(path)],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == status, run.stderr
    assert not (path / ".metadata").exists()
    with devices(2):
        model = nn.Linear(256, 256).to("moai")
        before = model.weight.cpu()
        state = {"model": model.state_dict()}
        with pytest.raises(BaseException, match="metadata"):
            dcp.load(state, checkpoint_id=path, no_dist=True)
        assert torch.equal(model.weight.cpu(), before)


def bench(
    folder: Path, data: Path, *options: str, script: str = "", devices: str = "cpu:4"
) -> subprocess.CompletedProcess:
    code = f"import sys, os, signal, torch\n{script}\nfrom moai.cli import main\nsys.exit(main(sys.argv[1:]))"
    words = ["bench", "--model", "tiny", "--steps", "9", "--log-every", "1", "--data", str(data)]
    words += ["--sample-bytes", "0", "--checkpoint", str(folder), "--checkpoint-every", "3", *options]
    env = os.environ | {"MOAI_DEVICES": devices}
    return subprocess.run(
        [sys.executable, "-c", code, *words], env=env, capture_output=True, text=True, check=False
    )


def losses(said: str) -> list[str]:
    return [line.split(" | ")[1] for line in said.splitlines() if line.startswith("[Step ")]


# At the second checkpoint: after half of it was written.
DIES = """
save = torch.save
count = 0
def cut_off(state, file):
    global count
    count += 1
    if count == 1:
        return save(state, file)
    import io
    whole = io.BytesIO()
    save(state, whole)
    file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
    file.flush()
    END
torch.save = cut_off
"""
ENDS = {
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
    "full": ("raise OSError(28, 'No space left on device')", 1),
}


@pytest.mark.parametrize(("end", "status"), ENDS.values(), ids=ENDS)
def test_a_run_that_died_in_a_checkpoint_is_resumed_with_the_same_losses(
    tmp_path: Path, end: str, status: int
) -> None:
    data = tmp_path / "text.txt"
    data.write_text("the quick brown fox jumps over the lazy dog. " * 800)
    unbroken = bench(tmp_path / "whole", data)
    assert unbroken.returncode == 0, unbroken.stderr
    died = bench(tmp_path / "broken", data, script=DIES.replace("END", end))
    assert died.returncode == status, died.stderr
    assert [path.name for path in (tmp_path / "broken").glob("step-*.pt")] == ["step-00000003.pt"]
    resumed = bench(tmp_path / "broken", data, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert losses(resumed.stdout) == losses(unbroken.stdout)[3:]
    assert len(losses(resumed.stdout)) == 6
    # On another number of devices the same to what is printed, but for the last digits.
    (tmp_path / "other").mkdir()
    (tmp_path / "broken" / "step-00000006.pt").rename(tmp_path / "other" / "step-00000006.pt")
    other = bench(tmp_path / "other", data, "--resume", devices="cpu:3")
    assert other.returncode == 0, other.stderr
    numbers = [[float(loss.split()[1]) for loss in losses(run.stdout)] for run in (other, unbroken)]
    assert numbers[0] == pytest.approx(numbers[1][6:], abs=2e-4)


# ---- Reading and writing a part


def moved(act: Callable[[], object]) -> tuple[int, int, object]:
    """Return how many bytes of parts were brought together, how many went to the devices, and what `act` returned."""
    moai.sync()
    before = moai.stats()
    result = act()
    moai.sync()
    after = moai.stats()
    return (
        after["bytes_joined"] - before["bytes_joined"],
        after["bytes_to_device"] - before["bytes_to_device"],
        result,
    )


def sharded() -> tuple[torch.Tensor, torch.Tensor]:
    """Return a weight whose rows lie on four devices, after a step, and what it is on the host."""
    torch.manual_seed(0)
    weight = torch.randn(64, 32).to("moai").requires_grad_()
    optimizer = torch.optim.SGD([weight], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (torch.randn(8, 64).to("moai") @ weight).square().mean().backward()
        optimizer.step()
    joined, _, whole = moved(lambda: weight.detach().cpu())
    assert joined == 64 * 32 * 4, "the plan does not shard it"
    return weight.detach(), whole


READS = {
    "rows": (lambda w: w[10:13], 3 * 32 * 4),
    "element": (lambda w: w[5, 7], 4),
    "column": (lambda w: w[:, 3], 64 * 4),
    "block": (lambda w: w[8:24, 4:8], 16 * 4 * 4),
    "every_other_row": (lambda w: w[::2], 32 * 32 * 4),
    "transposed_rows": (lambda w: w.t()[:, 2:4], 2 * 32 * 4),
    "nothing": (lambda w: w[3:3], 0),
}


@pytest.mark.parametrize(("part", "count"), READS.values(), ids=READS)
def test_reading_a_part_moves_its_bytes_alone(part: Callable, count: int) -> None:
    with devices(4, "dp=4,zero=3"):
        weight, whole = sharded()
        joined, _, got = moved(lambda: part(weight).cpu())
        assert torch.equal(got, part(whole))
        assert joined == count
        joined, _, text = moved(lambda: str(part(weight).tolist()))
        assert text == str(part(whole).tolist()) and joined == count


EDITS = {
    "fill": (lambda w, _: w[3:5].fill_(2.0), 0),
    "scale": (lambda w, _: w[:, 1].mul_(3.0), 0),
    "copy": (lambda w, on: w[40:44].copy_(torch.arange(128.0).view(4, 32).to(on)), 4 * 32 * 4),
    "assign": (lambda w, _: w.__setitem__((7, 9), 1.5), 0),
}


@pytest.mark.parametrize(("edit", "count"), EDITS.values(), ids=EDITS)
def test_an_edit_in_place_moves_no_byte_but_what_it_is_given(edit: Callable, count: int) -> None:
    with devices(4, "dp=4,zero=3"):
        weight, whole = sharded()
        joined, given, _ = moved(lambda: edit(weight, "moai"))
        edit(whole, "cpu")
        assert (joined, given) == (0, count)
        assert torch.equal(weight.cpu(), whole)


def test_loading_a_state_joins_nothing() -> None:
    with devices(4, "dp=4,zero=3"):
        model, optimizer = make()
        train(model, optimizer, range(2))
        saved = {name: value.cpu() + 1 for name, value in model.state_dict().items()}
        joined, _, _ = moved(lambda: model.load_state_dict(saved))
        assert joined == 0
        assert all(torch.equal(value.cpu(), saved[name]) for name, value in model.state_dict().items())
