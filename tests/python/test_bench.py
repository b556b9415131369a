"""The parts of ``moai bench``: models against transformers, generation, clock, schedule, comparison."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from moai.bench import checkpoint, compare, job, models
from moai.bench.errors import BadInput, RunFailed
from moai.bench.generate import generate, prompt_from, readable, window_length
from moai.bench.measure import Interval, StepClock, matmul_rate
from moai.bench.options import Settings, resolve
from moai.bench.text import check_size, read_text
from moai.bench.trainer import Trainer, learning_rate
from moai.cli import main
from torch.utils.flop_counter import FlopCounterMode

on_each_device = pytest.mark.parametrize("device", ("moai", "cpu"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One file of text."""
    path = tmp_path_factory.mktemp("text") / "text.py"
    path.write_text("".join(f"def f{i}(x):\n    return x + {i}\n\n\n" for i in range(300)))
    return str(path)


@pytest.fixture
def trainer(data: str) -> Callable[..., Trainer]:
    """Makes a small trainer; each gets the same weights and batches."""

    def make(device: str = "cpu", **settings: object) -> Trainer:
        settings = {"model": "tiny", "batch": 2, "seq": 16, "steps": 10, "device": device, **settings}
        return Trainer(resolve(Settings(**settings)), read_text(data), device)

    return make


# ---- Models


@pytest.mark.parametrize("tied", [False, True])
def test_llama_agrees_with_transformers(tied: bool) -> None:
    transformers = pytest.importorskip("transformers")
    config = dataclasses.replace(models.named("tiny").config, tied=tied)
    ours = config.build()
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            hidden_size=config.dim,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            intermediate_size=config.hidden,
            vocab_size=config.vocab,
            rms_norm_eps=config.norm_eps,
            tie_word_embeddings=tied,
        )
    )
    keys = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert (keys.unexpected_keys, keys.missing_keys) == ([], ["lm_head.weight"] if tied else [])
    tokens = torch.randint(256, (2, 40))
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-4)


def test_gpt2_agrees_with_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    config = models.named("gpt2-tiny").config
    ours = config.build()
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            n_embd=config.dim,
            n_layer=config.layers,
            n_head=config.heads,
            vocab_size=config.vocab,
            n_positions=config.max_seq,
        )
    ).eval()
    # Their projections are stored the other way round.
    turned = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    state = {name: w.T.contiguous() if name.endswith(turned) else w for name, w in ours.state_dict().items()}
    theirs.transformer.load_state_dict(state)
    tokens = torch.randint(256, (2, 40))
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["tiny", "small", "gpt2-small"])
def test_flops_of_weights_are_those_that_torch_counts(name: str) -> None:
    model, seq = models.named(name).config.build(), 64
    weights = model.flops_per_token(0)
    # All of its matrix products but attention's, which the counter sees only where it is one operator.
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, seq, dtype=torch.long)).sum().backward()
    products = ("mm", "addmm", "bmm")
    counted = sum(n for op, n in counter.get_flop_counts()["Global"].items() if op.__name__ in products)
    assert counted == weights * seq
    config = model.config
    assert model.flops_per_token(seq) - weights == 6 * config.layers * config.dim * seq


def test_same_seed_same_weights_on_each_device() -> None:
    one, other = (models.create("tiny", torch.device(device), seed=3) for device in ("moai", "cpu"))
    assert all(torch.equal(a.cpu(), b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


# ---- Generation


@on_each_device
def test_a_growing_text_shows_few_shapes(device: str) -> None:
    model, shapes = models.create("tiny", torch.device(device), seed=0), []
    model.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    text = generate(model, b"def f(", 150, seq=100, device=torch.device(device), seed=0)
    assert len(text) == len(shapes) == 150
    assert set(shapes) == {(1, 32), (1, 64), (1, 100)}
    assert model.training


def test_devices_write_the_same_text() -> None:
    one, other = (
        generate(models.create("tiny", torch.device(d), 0), b"x", 40, 32, torch.device(d), seed=1)
        for d in ("moai", "cpu")
    )
    assert one == other


@on_each_device
def test_padding_changes_no_logit(device: str) -> None:
    model = models.create("tiny", torch.device(device), seed=0)
    tokens = torch.randint(256, (1, 20))
    padded = torch.nn.functional.pad(tokens, (0, window_length(20, 64) - 20))
    assert padded.shape == (1, 32)
    torch.testing.assert_close(model(padded.to(device))[:, :20].cpu(), model(tokens.to(device)).cpu())


def test_a_prompt_is_whole_lines() -> None:
    text = b"".join(b"line %d\n" % i for i in range(100))
    prompt = prompt_from(torch.tensor(list(text), dtype=torch.uint8))
    assert prompt in text and prompt.startswith(b"line ") and prompt.endswith(b"\n") and len(prompt) <= 80
    assert prompt_from(torch.tensor([65] * 10, dtype=torch.uint8)) == b"A" * 5


def test_a_sample_cannot_disturb_the_terminal() -> None:
    assert readable(b"a\tb\n\x1b[2J\xff") == "a\tb\n\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}"


# ---- Training step, clock, rate


def test_the_rate_warms_up_then_falls_to_a_tenth() -> None:
    factor = learning_rate(resolve(Settings(model="tiny", steps=100)))
    rates = [factor(step) for step in range(100)]
    assert rates[0] == 0.1 and rates[9] == 1.0 and max(rates) == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[-1] == pytest.approx(0.1, abs=0.001)


def test_only_matrices_decay(trainer: Callable[..., Trainer]) -> None:
    decays, others = trainer().optimizer.param_groups
    assert (decays["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert {p.dim() for p in decays["params"]} == {2} and {p.dim() for p in others["params"]} == {1}


@pytest.mark.parametrize("optimizer", ["foreach", "default"])
@on_each_device
def test_optimizers_agree(trainer: Callable[..., Trainer], device: str, optimizer: str) -> None:
    fused, other = trainer(device), trainer(device, optimizer=optimizer)
    for _ in range(4):
        assert fused.step().item() == pytest.approx(other.step().item(), rel=1e-4)


def test_a_clock_counts_whole_intervals_after_warm_up() -> None:
    clock = StepClock()
    clock.start(0)
    clock.finish(2)  # from a drained device to a read: not whole
    clock.finish(4)  # whole, but with a step of warm-up
    clock.finish(6)
    clock.finish(8, drained=True)  # from a read to a drained device: not whole
    clock.start(8)
    clock.finish(10, drained=True)
    assert [interval.whole for interval in clock.intervals] == [False, True, True, False, True]
    assert [(interval.first, interval.last) for interval in clock.measured()] == [(4, 6), (8, 10)]


def test_a_clock_of_one_interval_still_measures() -> None:
    clock = StepClock()
    assert clock.measured() == []
    clock.intervals = [Interval(0, 1, 0.5, False)]
    assert clock.measured() == clock.intervals


@on_each_device
def test_the_matrix_rate_is_a_rate(device: str) -> None:
    assert 1e8 < matmul_rate(torch.device(device), torch.float32, budget_seconds=0.0) < 1e16


# ---- Text


def test_the_hint_for_short_text_would_work(tmp_path: Path) -> None:
    (tmp_path / "short").write_text("x = 1\n" * 100)
    text = read_text(str(tmp_path / "short"))
    with pytest.raises(BadInput, match="570 bytes to train on.* needs 585; .* or --batch 8$"):
        check_size(text, batch=9, seq=64)
    with pytest.raises(BadInput, match="is shorter than one batch: .* or --seq 62$"):
        check_size(text, batch=9, seq=900)
    with pytest.raises(BadInput, match="30 bytes are held out, --seq 62 needs 63; .* or --seq 29$"):
        check_size(text, batch=9, seq=62)
    check_size(text, batch=9, seq=29)


def test_python_itself_is_the_default_text() -> None:
    text = read_text()
    assert text.files > 200 and len(text.train) > 10 * len(text.held_out) > 1_000_000


def test_a_model_too_large_for_the_host_is_refused() -> None:
    with pytest.raises(BadInput, match="llama3-70b on cpu needs 1,051.3 GiB .* choose a smaller --model"):
        job.run(Settings(model="llama3-70b", device="cpu"))


# ---- Checkpoints


def test_a_checkpoint_of_other_text_is_refused(trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    checkpoint.save(str(tmp_path), trainer())
    other = trainer()
    other.text = dataclasses.replace(other.text, digest="another")
    with pytest.raises(BadInput, match="was made on other text: give the same --data"):
        checkpoint.resume(str(tmp_path), other)


def test_a_checkpoint_of_one_device_goes_on_on_another(
    trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    begun, other = trainer("moai"), trainer("cpu")
    begun.step()
    checkpoint.save(str(tmp_path), begun)
    checkpoint.resume(str(tmp_path), other)
    assert other.finished == 1
    assert other.step().item() == pytest.approx(begun.step().item(), abs=1e-5)


def test_a_full_disk_leaves_no_file_and_is_told(
    trainer: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFailed, match="No space left on device; free some room"):
        checkpoint.save(str(tmp_path), trainer())
    assert list(tmp_path.iterdir()) == []


# ---- Comparison


@pytest.mark.parametrize(
    ("mine", "theirs", "verdict"),
    [
        ([1, 1, 1], [2, 3, 4], "faster"),
        ([2, 3, 4], [1, 1, 1], "slower"),
        ([1, 1, 1], [0.9, 2, 3], "no difference shown"),
    ],
)
def test_a_ratio_is_real_only_if_its_range_excludes_1(mine: list, theirs: list, verdict: str) -> None:
    assert compare.speed_ratio(mine, theirs)["verdict"] == verdict


@pytest.mark.parametrize("steps", [8, 9, 20, 23, 100])
def test_rounds_use_up_the_steps(steps: int) -> None:
    warmup, rounds, block = compare.schedule(steps)
    assert warmup + rounds * block == steps and rounds >= 5 and warmup >= 3


def test_a_side_that_fails_drops_out_with_its_reason(
    data: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_sides = compare.make_sides

    def fail(*_: object) -> None:
        raise RuntimeError("no C++ compiler\nand much more")

    def broken(*arguments: object) -> list[compare.Side]:
        sides = make_sides(*arguments)
        sides[1].trainer.loss = fail
        return sides

    monkeypatch.setattr(compare, "make_sides", broken)
    options = ["--device", "cpu", "--model", "tiny", "--steps", "8", "--sample-bytes", "0", "--data", data]
    assert main(["bench", *options, "--compare", "compile"]) == 0
    assert "vs compile   not compared: no C++ compiler\n" in capsys.readouterr().out


# ---- The command line


def test_a_preset_fills_in_what_the_command_line_leaves_open(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(job, "run", lambda settings: seen.append(settings) or {"interrupted": False})
    assert main(["bench", "--preset", "demo", "--eval-every", "7"]) == 0
    assert (seen[0].model, seen[0].eval_every, seen[0].sample_bytes) == ("mini", 7, 480)


@pytest.mark.parametrize(("steps", "period"), [(1, 1), (60, 2), (200, 5), (700, 20), (17944, 50)])
def test_log_lines_come_at_round_steps(steps: int, period: int) -> None:
    assert resolve(Settings(steps=steps)).log_every == period


def assert_that_a_signal_ends_it(data: str, *options: str, **environment: str) -> None:
    """A run that is interrupted after its third step says what was finished, and ends with 130."""
    command = [sys.executable, "-m", "moai", "bench", "--model", "tiny", "--data", data, *options]
    command += ["--steps", "100000", "--log-every", "1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, env=os.environ | environment) as run:
        for line in run.stdout:
            if line.startswith("[Step 3/"):
                run.send_signal(signal.SIGINT)
                break
        said = run.stdout.read()
        assert run.wait(timeout=60) == 130
        assert "interrupted" in said and "throughput" in said and run.stderr.read() == ""


@on_each_device
def test_a_signal_ends_a_real_run_with_130(data: str, device: str) -> None:
    assert_that_a_signal_ends_it(data, "--device", device)
