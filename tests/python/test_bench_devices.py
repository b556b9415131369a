"""``moai bench`` on moai and on the CPU: the same losses, the same files, the same refusals."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from moai.bench import checkpoint, job
from moai.bench.errors import BadInput
from moai.bench.models import MODELS, parameter_count
from moai.bench.options import Settings, resolve
from moai.bench.report import step_line
from moai.bench.text import batch_at, read_text
from moai.bench.trainer import Trainer
from moai.cli import main

DEVICES = ("moai", "cpu")
on_each_device = pytest.mark.parametrize("device", DEVICES)
LINE = re.compile(
    r"\[Step (\d+)/(\d+)\] \| Loss: (\d+\.\d{5}) \| Duration: \d+\.\d\d \| Throughput: \d+\.\d\d tokens/sec"
)


@pytest.fixture(autouse=True)
def quick_roofline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fixed rate of matrix multiplies: measuring it takes a second a run."""
    monkeypatch.setattr(job, "matmul_rate", lambda device, dtype: 1e11)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Forty files of text, each unlike the others."""
    folder = tmp_path_factory.mktemp("text")
    for number in range(40):
        lines = (f"def function_{number}_{i}(x):\n    return x + {i * number}\n" for i in range(60))
        (folder / f"{number:02d}.py").write_text("".join(lines))
    return str(folder)


@dataclasses.dataclass
class Bench:
    """One run of the command."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[tuple[int, int, float]]:
        return [(int(m[1]), int(m[2]), float(m[3])) for m in map(LINE.fullmatch, self.out.splitlines()) if m]


@pytest.fixture
def bench(capsys: pytest.CaptureFixture, data: str):
    """Runs ``moai bench`` here, on little text, without a sample."""

    def run(*options: str) -> Bench:
        capsys.readouterr()
        try:
            status = main(["bench", "--model", "tiny", "--data", data, "--sample-bytes", "0", *options])
        except SystemExit as stopped:  # argparse's own way
            status = stopped.code
        return Bench(status, *capsys.readouterr())

    return run


# ---- What it prints


def test_a_log_line_reads_as_promised() -> None:
    line = "[Step 4/17944] | Loss: 2.03125 | Duration: 1.27 | Throughput: 12882.87 tokens/sec"
    assert step_line(4, 17944, 2.03125, 16384 / 12882.87, 16384) == line
    assert LINE.fullmatch(line)


@on_each_device
def test_the_loss_falls_and_every_step_has_its_line(bench, device: str) -> None:
    run = bench("--device", device, "--steps", "30")
    assert run.status == 0, run.err
    assert [step for step, _, _ in run.lines] == list(range(1, 31))
    assert {steps for _, steps, _ in run.lines} == {30}
    assert run.lines[0][2] > 5 and run.lines[-1][2] < 3


def test_devices_print_the_same_losses(bench) -> None:
    moai, cpu = (bench("--device", device, "--steps", "8").lines for device in DEVICES)
    assert len(moai) == 8
    assert [loss for *_, loss in moai] == pytest.approx([loss for *_, loss in cpu], abs=2e-5)


def test_fewer_lines_tell_the_same_losses(bench) -> None:
    each, some = bench("--steps", "9"), bench("--steps", "9", "--log-every", "4")
    assert some.lines == [each.lines[i] for i in (3, 7, 8)]


def test_evaluation_is_told_and_changes_no_step(bench) -> None:
    plain, evaluated = bench("--steps", "6"), bench("--steps", "6", "--eval-every", "2")
    assert evaluated.lines == plain.lines
    assert re.findall(r"\[Eval (\d)/6\] \| Held-out loss: \d\.\d{5}", evaluated.out) == ["2", "4"]


def test_traces_are_told_for_moai_alone(bench) -> None:
    assert re.search(r"^traces +\d+ seen, \d+ compiled$", bench("--steps", "4").out, re.MULTILINE)
    assert "traces" not in bench("--steps", "4", "--device", "cpu").out


def test_more_steps_make_no_more_compiles(data: str) -> None:
    """On one device: on several a plan whose steps are not as long as predicted is reconsidered once.

    One more is no mistake: a step that runs before the script lets go of its loss has a program that keeps it.
    """
    command = [sys.executable, "-m", "moai", "bench", "--model", "tiny", "--batch", "8", "--seq", "64"]
    command += ["--data", data, "--seed", "7", "--sample-bytes", "0", "--devices", "1", "--steps"]
    compiled = []
    for steps in ("8", "48"):
        run = subprocess.run([*command, steps], capture_output=True, text=True, check=True)
        compiled.append(int(re.search(r"traces .* (\d+) compiled", run.stdout)[1]))
    assert abs(compiled[1] - compiled[0]) <= 1 and max(compiled) <= 4


def test_the_sample_follows_held_out_text(bench, data: str) -> None:
    out = bench("--steps", "4", "--sample-bytes", "40").out
    sample = out[out.index("sample, going on from") :]
    assert "def function_" in sample
    assert len(sample.split("held-out   ")[0]) > 90


def test_bf16_trains(bench) -> None:
    half, whole = bench("--dtype", "bf16", "--steps", "20"), bench("--steps", "20")
    assert half.lines[-1][2] == pytest.approx(whole.lines[-1][2], abs=0.1)
    assert half.lines != whole.lines


# ---- --compare


def test_compare_prints_ratios_and_equal_losses(bench, tmp_path: Path) -> None:
    run = bench("--steps", "8", "--compare", "eager", "--json", str(tmp_path / "r.json"))
    assert run.status == 0, run.err
    assert re.search(
        r"^vs eager +\d+\.\d{3} x the speed \(\S+ to \S+ over 5 rounds\): \w+", run.out, re.MULTILINE
    )
    assert float(re.search(r"differs from eager's by (\S+) at most", run.out)[1]) < 1e-4
    compared = json.loads((tmp_path / "r.json").read_text())["compare"]
    assert compared["speed_ratio"]["eager"]["rounds"] == 5
    assert compared["loss_difference"]["eager"]["largest"] < 1e-4
    assert compared["failures"] == {}


# ---- --json

KEYS = {
    *(
        "settings",
        "torch",
        "threads",
        "parameters",
        "text",
        "steps_finished",
        "interrupted",
        "resumed_from",
        "losses",
    ),
    *(
        "held_out_losses",
        "held_out_loss",
        "throughput",
        "flops_per_token",
        "matmul_flops_per_second",
        "mfu",
        "seconds",
    ),
    *("peak_host_bytes", "peak_device_bytes", "cpu_seconds", "sample", "compare"),
}


@on_each_device
def test_json_holds_the_run(bench, tmp_path: Path, device: str) -> None:
    run = bench("--device", device, "--steps", "8", "--eval-every", "4", "--json", str(tmp_path / "r.json"))
    results = json.loads((tmp_path / "r.json").read_text())
    assert results.keys() == KEYS | {"plan"} | ({"traces", "compiles"} if device == "moai" else set())
    assert results["settings"]["device"] == device and results["settings"]["batch"] == 8
    assert results["parameters"] == parameter_count("tiny")
    assert results["steps_finished"] == 8 and results["interrupted"] is False
    assert [step for step, _ in results["losses"]] == list(range(1, 9))
    assert [loss for _, loss in results["losses"]] == pytest.approx(
        [loss for *_, loss in run.lines], abs=1e-5
    )
    assert [step for step, _ in results["held_out_losses"]] == [4]
    speed = results["throughput"]
    assert speed["tokens_per_second"] == pytest.approx(8 * 64 / speed["step_seconds"])
    assert results["mfu"] == pytest.approx(speed["tokens_per_second"] * results["flops_per_token"] / 1e11)
    assert list(tmp_path.iterdir()) == [tmp_path / "r.json"]


def test_ctrl_c_keeps_what_was_finished(bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Trainer.step

    def interrupted(self: Trainer) -> torch.Tensor:
        if self.finished == 3:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Trainer, "step", interrupted)
    run = bench("--steps", "9", "--json", str(tmp_path / "r.json"))
    assert run.status == 130
    assert "interrupted  after step 3 of 9" in run.out
    results = json.loads((tmp_path / "r.json").read_text())
    assert results["interrupted"] and results["steps_finished"] == 3 and len(results["losses"]) == 3


# ---- Checkpoints


def tensors_in(path: Path) -> dict:
    state = checkpoint.read(path)
    moments = {f"{n}.{k}": v for n, part in state["optimizer"]["state"].items() for k, v in part.items()}
    return state["model"] | moments


@on_each_device
@pytest.mark.parametrize(
    "more", [(), ("--dtype", "bf16"), ("--optimizer", "default")], ids=lambda m: "-".join(m)
)
def test_a_resumed_run_is_the_unbroken_one(bench, tmp_path: Path, device: str, more: tuple[str, ...]) -> None:
    options = ("--device", device, "--steps", "10", *more)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    unbroken = bench(*options, "--checkpoint", str(whole), "--checkpoint-every", "5")
    assert sorted(path.name for path in whole.iterdir()) == ["step-00000005.pt", "step-00000010.pt"]
    broken.mkdir()
    shutil.copy(whole / "step-00000005.pt", broken)
    resumed = bench(*options, "--checkpoint", str(broken), "--resume")
    assert resumed.status == 0, resumed.err
    assert "after step 5, from" in resumed.out
    assert resumed.lines == unbroken.lines[5:]
    got, want = tensors_in(broken / "step-00000010.pt"), tensors_in(whole / "step-00000010.pt")
    assert got.keys() == want.keys() and len(got) > 40
    assert [name for name in want if not torch.equal(got[name], want[name])] == []


def test_the_newest_two_checkpoints_are_kept(bench, tmp_path: Path) -> None:
    bench("--steps", "5", "--checkpoint", str(tmp_path), "--checkpoint-every", "1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000004.pt", "step-00000005.pt"]


def truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip_a_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage", [truncate, flip_a_bit, lambda content: b""], ids=["truncated", "flipped", "empty"]
)
def test_a_damaged_checkpoint_is_refused_and_the_model_untouched(
    bench, data: str, tmp_path: Path, damage
) -> None:
    options = ("--steps", "4", "--checkpoint", str(tmp_path))
    bench(*options, "--checkpoint-every", "2")
    newest = tmp_path / "step-00000004.pt"
    newest.write_bytes(damage(newest.read_bytes()))
    settings = resolve(Settings(model="tiny", data=data, steps=4))
    trainer = Trainer(settings, read_text(data), "moai")
    before = {name: value.clone().cpu() for name, value in trainer.model.state_dict().items()}
    with pytest.raises(BadInput, match="truncated or damaged"):
        checkpoint.resume(str(tmp_path), trainer)
    assert trainer.finished == 0 and not trainer.optimizer.state
    assert all(torch.equal(value.cpu(), before[name]) for name, value in trainer.model.state_dict().items())
    run = bench(*options, "--resume")
    assert run.status == 2
    assert str(newest) in run.err and "delete it to go on from step-00000002.pt" in run.err


@pytest.mark.parametrize(
    "change", [("--seed", "3"), ("--lr", "0.5"), ("--batch", "4"), ("--steps", "6")], ids=" ".join
)
def test_a_checkpoint_of_another_run_is_refused(bench, tmp_path: Path, change: tuple[str, str]) -> None:
    options = ("--steps", "4", "--checkpoint", str(tmp_path))
    bench(*options)
    run = bench(*options, "--resume", *change)
    assert run.status == 2
    assert f"was made with {change[0]}" in run.err and f"this run has {change[1]}" in run.err


# ---- What it refuses

BAD_INPUT = {
    "model": (("--model", "gpt9"), "unknown model 'gpt9': choose from tiny, mini"),
    "device": (("--device", "nope"), "--device nope is no device that torch knows: give moai or cpu"),
    "other_device": (("--device", "xla"), "cannot use --device xla"),
    "data": (("--data", "/no/such"), "no such file or folder: /no/such"),
    "steps": (("--steps", "0"), "--steps is 0: give 1 or more"),
    "batch": (("--batch", "-2"), "--batch is -2: give 1 or more"),
    "large_batch": (("--batch", "100000"), "is shorter than one batch"),
    "seq": (("--seq", "999999"), "--seq 999999: tiny has"),
    "lr": (("--lr", "-1"), "--lr is -1.0: give a number above 0"),
    "lr_text": (("--lr", "fast"), "argument --lr: invalid float value: 'fast'"),
    "dtype": (("--dtype", "fp8"), "argument --dtype: invalid choice: 'fp8' (choose from"),
    "threads": (("--threads", "0"), "--threads is 0: give 1 or more"),
    "eval_every": (("--eval-every", "-1"), "--eval-every is -1: give 0 or more"),
    "resume_nothing": (("--resume",), "--resume needs a folder: give --checkpoint DIR too"),
    "resume_empty": (("--resume", "--checkpoint", "/no/such"), "no checkpoint in /no/such"),
    "json": (("--json", "/no/such/r.json"), "there is no folder /no/such"),
    "json_folder": (("--json", "/tmp"), "--json /tmp is a folder: name a file"),
    "compare": (("--compare", "jax"), "--compare has no side 'jax': choose from eager, compile"),
    "compare_twice": (("--compare", "eager,eager"), "names a side twice"),
    "compare_short": (
        ("--compare", "eager", "--steps", "3"),
        "--compare needs 8 steps or more: give --steps 8",
    ),
    "compare_checkpoint": (("--compare", "eager", "--checkpoint", "/tmp/c"), "do not go together"),
}


@pytest.mark.parametrize(("options", "text"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input_is_named_and_exits_2(bench, options: tuple[str, ...], text: str) -> None:
    run = (
        bench("--steps", "2", *options)
        if "--steps" not in options and "--compare" not in options
        else bench(*options)
    )
    assert run.status == 2
    assert text in run.err
    assert run.err.splitlines()[-1].startswith("moai bench: ")
    assert len(run.err.splitlines()) <= 2 and len(run.err) < 300 and "Traceback" not in run.err
    assert run.lines == []


def test_a_loss_that_is_no_number_ends_the_run(bench) -> None:
    run = bench("--steps", "20", "--lr", "1e30")
    assert run.status == 1
    assert re.match(
        r"moai bench: the loss is (nan|inf) at step \d+: try a lower --lr \(now 1e\+30\)\n", run.err
    )


def test_empty_files_and_binaries_are_no_text(bench, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "b").write_bytes(b"\x7fELF\0\0")
    assert "no text in" in bench("--data", str(tmp_path)).err


# ---- Text


def test_whole_files_are_held_out_and_never_trained_on(data: str) -> None:
    text = read_text(data)
    train, held_out = (bytes(part.tolist()) for part in (text.train, text.held_out))
    files = [path.read_bytes() for path in sorted(Path(data).iterdir())]
    assert [number for number, content in enumerate(files) if content in held_out] == [19, 39]
    assert [number for number, content in enumerate(files) if content not in train] == [19, 39]
    assert len(train) + len(held_out) == sum(map(len, files))


def test_of_one_file_the_last_twentieth_is_held_out(tmp_path: Path) -> None:
    content = bytes(1 + i % 251 for i in range(2000))
    (tmp_path / "one").write_bytes(content)
    text = read_text(str(tmp_path / "one"))
    assert bytes(text.train.tolist()) == content[:1900] and bytes(text.held_out.tolist()) == content[1900:]


def test_batches_are_windows_of_their_part_and_functions_of_the_step() -> None:
    part = torch.arange(40, dtype=torch.uint8)
    seen = set()
    for step in range(60):
        tokens, targets = batch_at(part, step, 4, 8, seed=1)
        assert tokens.shape == targets.shape == (4, 8)
        assert torch.equal(targets, tokens + 1) and torch.equal(tokens, tokens[:, :1] + torch.arange(8))
        assert torch.equal(batch_at(part, step, 4, 8, seed=1)[0], tokens)
        seen |= set(targets.flatten().tolist())
    assert seen == set(range(1, 40))
    assert not torch.equal(batch_at(part, 0, 4, 8, 1)[0], batch_at(part, 0, 4, 8, 2)[0])


# ---- Models and the command line

PARAMETERS = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
}
PARAMETERS |= {"llama3-1b": 1_235_814_400, "llama3-8b": 8_030_261_248, "llama3-70b": 70_553_706_496}


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_a_model_has_as_many_parameters_as_published(name: str, count: int) -> None:
    assert parameter_count(name) == count


def test_help_names_every_option_and_every_model(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "--help"])
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(Settings):
        assert f"--{field.name.replace('_', '-')} " in text
    assert all(name in text for name in MODELS)


def test_moai_alone_prints_its_help_and_exits_2(capsys: pytest.CaptureFixture) -> None:
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "bench" in captured.err


def test_a_reader_that_goes_away_ends_the_run_quietly(data: str) -> None:
    command = [sys.executable, "-m", "moai", "bench", "--model", "tiny", "--data", data, "--steps", "3000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline().startswith("model ")
        run.stdout.close()
        said = run.stderr.read()
        assert run.wait(timeout=120) == 141
    assert said == ""
