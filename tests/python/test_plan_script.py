"""`moai plan train.py`: scripts of all kinds run dry, what they must not do, and what the report says."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

BARE = """
import argparse, torch
from torch import nn
parser = argparse.ArgumentParser()
parser.add_argument("--width", type=int, default=64)
width = parser.parse_args().width
model = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)).to("moai")
optimizer = torch.optim.AdamW(model.parameters())
for step in range(1000):
    x = torch.randn(32, width).to("moai")
    loss = (model(x) - x).square().mean()
    {between}
    optimizer.zero_grad(); loss.backward(); optimizer.step()
    {after}
"""
SCALER = """
import torch
model = torch.nn.Linear(64, 64).to("moai")
optimizer, scaler = torch.optim.AdamW(model.parameters()), torch.amp.GradScaler("moai")
for step in range(1000):
    x = torch.randn(32, 64).to("moai")
    with torch.autocast("moai", dtype=torch.float16):
        loss = (model(x) - x).square().mean()
    optimizer.zero_grad(); scaler.scale(loss).backward(); scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer); scaler.update()
"""
ACCELERATE = """
import torch
from accelerate import Accelerator
accelerator = Accelerator()
model = torch.nn.Linear(64, 64)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(512, 64)), batch_size=32)
model, optimizer, data = accelerator.prepare(model, optimizer, data)
for (x,) in data:
    loss = (model(x) - x).square().mean(); accelerator.backward(loss); optimizer.step(); optimizer.zero_grad()
"""
LIGHTNING = """
import torch, lightning
class Model(lightning.LightningModule):
    def __init__(self):
        super().__init__(); self.layer = torch.nn.Linear(64, 64)
    def training_step(self, batch, index):
        loss = (self.layer(batch[0]) - batch[0]).square().mean(); self.log("loss", loss, prog_bar=True); return loss
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())
data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(512, 64)), batch_size=32)
lightning.Trainer(max_epochs=1, logger=False, enable_checkpointing=False).fit(Model(), data)
"""
TRAINER = """
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments
rows = [{"input_ids": t, "labels": t} for t in torch.randint(0, 100, (64, 32))]
config = GPT2Config(vocab_size=100, n_layer=1, n_embd=32, n_head=2, bos_token_id=0, eos_token_id=0)
arguments = TrainingArguments("out", per_device_train_batch_size=8, logging_steps=1, report_to=[])
Trainer(GPT2LMHeadModel(config), arguments, train_dataset=rows).train()
"""
ROUNDS = """
import torch
model = torch.nn.Sequential(torch.nn.Embedding(100, 32), torch.nn.Linear(32, 100)).to("moai")
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
while True:
    for round in range(3):
        x, y = torch.randint(0, 100, (4, 16)).to("moai"), torch.randint(0, 100, (4, 16)).to("moai")
        torch.nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
    optimizer.step(); optimizer.zero_grad()
"""
RESIDENT = """
import torch
model = torch.nn.Sequential(torch.nn.Embedding(100, 32), torch.nn.Linear(32, 100)).to("moai")
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
data = torch.randint(0, 100, (620, 4)).to("moai")
for i in range(0, 600, 35):
    x, y = data[i : i + 35], data[i + 1 : i + 36]
    torch.nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
    optimizer.step(); optimizer.zero_grad()
"""
GAN = """
import torch
critic, generator = torch.nn.Linear(64, 1).to("moai"), torch.nn.Linear(16, 64).to("moai")
steps = [torch.optim.AdamW(m.parameters(), fused=True) for m in (critic, generator)]
while True:
    for _ in range(3):
        real, fake = torch.randn(32, 64).to("moai"), generator(torch.randn(32, 16, device="moai"))
        steps[0].zero_grad(); critic(real).mean().backward(); (-critic(fake.detach())).mean().backward(); steps[0].step()
    steps[1].zero_grad(); critic(generator(torch.randn(32, 16, device="moai"))).mean().backward(); steps[1].step()
"""
PADDED = """
import torch
model = torch.nn.Sequential(torch.nn.Embedding(100, 32), torch.nn.Linear(32, 100)).to("moai")
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for length in range(8, 100):
    x = torch.randint(0, 100, (4, length)).to("moai")
    print(length, end=" ", flush=True)
    torch.nn.functional.cross_entropy(model(x).flatten(0, 1), x.flatten()).backward()
    optimizer.step(); optimizer.zero_grad()
"""
BY_HAND = """
import torch
model = torch.nn.Linear(64, 64).to("moai")
while True:
    x = torch.randn(32, 64).to("moai")
    model.zero_grad()
    loss = (model(x) - x).square().mean(); loss.backward()
    for p in model.parameters(): p.data.add_(p.grad, alpha=-0.1)
    print(loss.item())
"""
LARGE = """
import torch
from torch import nn
# 64 GiB of weights in fp32.
model = nn.Sequential(*(nn.Linear(16384, 16384, bias=False) for _ in range(64))).to("moai")
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
while True:
    loss = model(torch.randn(64, 16384).to("moai")).square().mean()
    optimizer.zero_grad(); loss.backward(); optimizer.step()
"""


def plan(
    folder: Path, text: str, *arguments: str, options: tuple[str, ...] = (), cluster: str = "h100:2"
) -> subprocess.CompletedProcess:
    script = folder / "train.py"
    script.write_text(text)
    command = [sys.executable, "-m", "moai", "plan", str(script), "--cluster", cluster, *options]
    if arguments:
        command += ["--", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=500)


def planned(folder: Path, text: str, *arguments: str, **kwargs) -> dict:
    done = plan(folder, text, *arguments, options=("--json", "found.json"), **kwargs)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize(
    "text",
    [
        BARE.format(between="pass", after="print(step, loss.item())"),
        BARE.format(between="assert not torch.isnan(loss).item()", after="pass"),
        SCALER,
    ],
    ids=["bare", "read before backward", "scaler"],
)
def test_a_loop_gives_its_whole_step(tmp_path: Path, text: str) -> None:
    found = planned(tmp_path, text)
    assert found["fits"] and found["step_time_s"] > 0 and found["batch"] == 32
    assert found["steps_alike"] and found["steps_recorded"] <= 4
    roles = {group["role"] for group in found["tensors"]}
    assert {"weight", "state", "data"} <= roles  # forward, backward and the optimizer are one step


@pytest.mark.parametrize(
    ("library", "text"), [("accelerate", ACCELERATE), ("lightning", LIGHTNING), ("transformers", TRAINER)]
)
def test_libraries_give_their_step(tmp_path: Path, library: str, text: str) -> None:
    pytest.importorskip(library)
    found = planned(tmp_path, text)
    assert found["fits"] and found["parameters"] > 0 and found["batch"] in (8, 32)


def test_a_large_batch_from_a_factory_is_an_input(tmp_path: Path) -> None:
    text = BARE.format(between="pass", after="pass").replace("randn(32, width)", "randn(8192, width)")
    found = planned(tmp_path, text)
    assert found["batch"] == 8192 and not found["no_micro_batches"]


def test_rounds_whose_gradients_add_up_are_one_step(tmp_path: Path) -> None:
    found = planned(tmp_path, ROUNDS)
    assert (found["rounds"], found["batch"], found["seq"], found["tokens"]) == (3, 4, 16, 3 * 4 * 16)
    assert found["tokens_per_s"] == pytest.approx(192 / found["step_time_s"])
    assert found["samples_per_s"] == pytest.approx(12 / found["step_time_s"])


def test_a_data_set_on_the_device_is_no_batch(tmp_path: Path) -> None:
    found = planned(tmp_path, RESIDENT)
    assert found["tokens"] == 35 * 4 and found["samples_per_s"] is None
    assert found["steps_alike"] and found["steps_recorded"] == 2  # another part of it is no other step


def test_batches_of_different_sizes_are_told(tmp_path: Path) -> None:
    done = plan(tmp_path, PADDED, options=("--json", "found.json"))
    found = json.loads((tmp_path / "found.json").read_text())
    assert (
        found["other_sizes"] and not found["steps_alike"] and found["seq"] == 8 + found["steps_recorded"] - 1
    )
    assert "had different sizes" in " ".join(done.stdout.split())


def test_all_optimizers_step_in_a_step(tmp_path: Path) -> None:
    found = planned(tmp_path, GAN)
    assert found["optimizers"] == 2 and found["parameters"] == 64 + 1 + 16 * 64 + 64
    updates = [op["count"] for op in found["breakdown"]["ops"] if op["op"].startswith("aten._fused_adamw_")]
    assert sum(updates) == 4 * 2  # a weight and a bias each: three times the critic, once the generator
    assert found["batch"] == 32 and found["rounds"] == 1


def test_a_loop_that_updates_by_hand_gives_its_step(tmp_path: Path) -> None:
    found = planned(tmp_path, BY_HAND)
    assert found["parameters"] == 64 * 64 + 64 and found["batch"] == 32 and found["steps_alike"]
    assert list(found["reads"]) == ["train.py:9"]


def test_arguments_after_the_dashes_are_the_scripts(tmp_path: Path) -> None:
    text = BARE.format(between="pass", after="pass")
    assert planned(tmp_path, text, "--width", "128")["parameters"] == 2 * 4 * 128 * 128 + 5 * 128


def test_reads_are_zeros_and_listed_by_line(tmp_path: Path) -> None:
    text = BARE.format(between="pass", after="assert loss.item() == 0.0 and loss.cpu().sum() == 0")
    found = planned(tmp_path, text)
    assert list(found["reads"]) == ["train.py:14"]


def test_a_model_that_no_memory_holds_is_planned(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(LARGE)
    # VmHWM is this process's own peak; ru_maxrss counts what the test's process held when it started this one.
    code = (
        "from moai.planning.script import record_script; "
        f"step = record_script({str(script)!r}, []); "
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM')); "
        "print(step.parameters, peak.split()[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    parameters, kilobytes = (int(word) for word in done.stdout.split())
    assert parameters == 64 * 16384**2 and kilobytes < 2 * 2**20


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("print('hello')", "ended without a step on moai"),
        (BARE.format(between="pass", after="pass").replace('"moai"', '"cpu"').replace("range(1000)", "iter(int, 1)"), "trains on the CPU"),
        ("import sys; sys.exit(3)", "exit status 3"),
        ("raise KeyError('lost')", r"stopped at train.py:1 before it had made two steps: KeyError"),
        ("open('nowhere.bin')", r"needs nowhere.bin at train.py:1, which is not there"),
        ("raise FileNotFoundError('no corpus here')", r"needs a file at train.py:1 that is not there: no corpus here"),
        ("import no_such_module", "No module named 'no_such_module'"),
        ("from os import no_such_name", r"could not import at train.py:1: .*no_such_name"),
        ("import sys; sys.exit('no licence')", r"ended \(no licence\) without a step on moai"),
        ("import argparse; p = argparse.ArgumentParser(); p.add_argument('data'); p.parse_args()", r"after --"),
        ("x = (", r"stopped at train.py:1 .*SyntaxError"),
        (
            "try: {}['lost']\nexcept KeyError as e: raise RuntimeError('\\nfailed to import a; see above') from e",
            r"train.py:2 .*RuntimeError: failed to import a; see above \(from KeyError: 'lost'\)",
        ),
        ("import urllib.request; urllib.request.urlopen('http://127.0.0.1:9/x')", r"fetches something at train.py:1"),
        ("import torch; torch.zeros(1, device='cuda')", r'asks for CUDA at train.py:1(.|\n)*the device "moai" instead'),
        (
            BARE.format(between="if loss.item() < 0.1: break", after="pass"),
            r"it read values at train.py:12: all zeros",
        ),
        (
            BARE.format(between="torch.save(model.state_dict(), 'x.pt')", after="pass"),
            r"saves a moai tensor at train.py:12",
        ),
        (BARE.format(between="loss.reshape(1).nonzero()", after="pass"), r"aten::nonzero at train.py:12 needs values"),
    ],
)  # fmt: skip
def test_what_gives_no_step_says_why_and_what_to_do(tmp_path: Path, text: str, says: str) -> None:
    done = plan(tmp_path, text)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert re.search(says, done.stderr), done.stderr
    assert "would work" in done.stderr


def test_the_report_fits_a_terminal_and_the_page_stands_alone(tmp_path: Path) -> None:
    text = BARE.format(between="pass", after="print(loss.item())")
    done = plan(
        tmp_path,
        text,
        options=("--html", "page.html", "--compare", "cluster=h100:4", "--compare", "pin=dp=2"),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = done.stdout[done.stdout.index("model ") :]
    assert max(len(line) for line in report.splitlines()) <= 80
    for said in (
        "fits",
        "layout",
        "throughput",
        "binds",
        "faster",
        "side by side",
        "values that the script read",
    ):
        assert said in report, said
    page = (tmp_path / "page.html").read_text()
    assert "<svg" in page and "prefers-color-scheme: dark" in page and "width=device-width" in page
    assert not re.search(r"(src|href)=", page)


def test_a_step_that_does_not_fit_says_what_would(tmp_path: Path) -> None:
    options = ("--memory", "4KiB", "--pin", "recompute=none,micro=1")
    text = BARE.format(between="pass", after="pass")
    done = plan(tmp_path, text, "--width", "4", options=options, cluster="h100:1")
    assert done.returncode == 1
    said = " ".join(done.stdout.split())
    assert "fits no: 6.7 KiB on each device at least, 2.7 KiB too many" in said
    assert "most of it activations 4.5 KiB, states 1.2 KiB, weights 592 B, data 512 B" in said
    assert "2.0 KiB f32[32,16] activations aten.gelu train.py:11" in said
    assert "would fit more devices, or a smaller batch, or fewer pins" in said


def test_a_sweep_asks_the_script(tmp_path: Path) -> None:
    text = BARE.format(between="pass", after="pass")
    options = ("--sweep", "width=64,128,wide", "--html", "page.html", "--json", "found.json")
    done = plan(tmp_path, text, options=options)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "found.json").read_text())
    first, second, refused = found["compared"]
    assert [first["parameters"], second["parameters"]] == [2 * 4 * w * w + 5 * w for w in (64, 128)]
    # What cannot be takes nothing from the others.
    assert "exit status 2" in refused["refused"] and "exit status 2" in " ".join(done.stdout.split())
    page = (tmp_path / "page.html").read_text()
    assert 'aria-label="samples/sec"' in page and 'aria-label="memory of each device"' in page


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--cluster", "h100:8"], "either a script"),
        (["--cluster", "h100:8", "--model", "gpt2"], "--batch and --seq"),
        (["train.py", "--cluster", "h100:8", "--batch", "3"], "after --"),
        (["nowhere.py", "--cluster", "h100:8"], "there is no script nowhere.py"),
        (["--cluster", "here:2", "--model", "gpt2", "--batch", "2", "--seq", "8"], "moai calibrate"),
        (["--cluster", "h100:8", "--model", "gpt2", "--batch", "2", "--seq", "8", "--compare", "shape=3"], "--compare shape=3"),
        (["train.py", "--cluster", "h100:8", "--compare", "batch=3"], "--sweep batch=… for an argument of the script's own"),
    ],
)  # fmt: skip
def test_bad_questions_say_what_would_work(tmp_path: Path, options: list[str], says: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "moai", "plan", *options], capture_output=True, text=True, cwd=tmp_path,
        env={**__import__("os").environ, "MOAI_PROFILE": str(tmp_path / "none.json")}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr, done.stderr
