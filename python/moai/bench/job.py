"""The main job, start to end: text, model, training, evaluation, a sample, the results."""

import contextlib
import dataclasses
import math
import os
import statistics
import textwrap
import time
from collections.abc import Iterator

import psutil
import torch

import moai
from moai.explaining import plan_lines

from . import checkpoint, compare, scaling
from .errors import BadInput, RunFailed
from .generate import generate, prompt_from, readable
from .measure import PeakMemory, StepClock, drain, matmul_rate
from .models import parameter_count
from .options import DEVICES, Settings, resolve
from .report import Report, step_line, summary_rows, table, write_json
from .text import Text, check_size, read_text
from .trainer import Trainer

# Bytes of training state for each parameter: weight, gradient and AdamW's two moments, in fp32.
STATE_BYTES = 16


def _check_device(settings: Settings) -> None:
    try:
        torch.device(settings.device)
    except RuntimeError:
        raise BadInput(
            f"--device {settings.device} is no device that torch knows: give moai or cpu"
        ) from None
    try:
        torch.empty(1, device=settings.device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).splitlines()[0].split(". ")[0].rstrip(".")
        raise BadInput(
            f"cannot use --device {settings.device}: {first}; --device cpu works everywhere"
        ) from error
    host_sides = len(settings.peers) + (settings.device == "cpu")
    needed = parameter_count(settings.model) * STATE_BYTES * host_sides
    available = psutil.virtual_memory().available
    if needed > available:
        raise BadInput(
            f"{settings.model} on cpu needs {needed / 2**30:,.1f} GiB for its training state, and"
            f" {available / 2**30:,.1f} GiB are free: choose a smaller --model"
        )


def _every(period: int, step: int) -> bool:
    return period > 0 and step % period == 0


def train(trainer: Trainer, clock: StepClock, report: Report, history: dict) -> None:
    """Take the steps that are left, logging, evaluating and saving on the way.

    The loss is read only where a line is due: see Note [When a step is finished].
    """
    settings = trainer.settings
    clock.start(trainer.finished)
    told = False
    while trainer.finished < settings.steps:
        loss = trainer.step()
        if trainer.device.type == "moai":
            moai.count_tokens(settings.tokens_per_step)
        if not told:
            told = True
            plan = _plan_rows(trainer.device)
            if plan:
                report.line(table(plan))
        step, last = trainer.finished, trainer.finished == settings.steps
        evaluates = _every(settings.eval_every, step) and not last
        saves = settings.checkpoint is not None and (last or _every(settings.checkpoint_every, step))
        if not (evaluates or saves or last or _every(settings.log_every, step)):
            continue
        value = loss.item()
        pauses = evaluates or saves or (last and clock.from_drained)
        if pauses:
            drain(trainer.device)
        seconds = clock.finish(step, drained=pauses)
        history["losses"].append([step, value])
        report.line(step_line(step, settings.steps, value, seconds, settings.tokens_per_step))
        report.finished(step)
        if not math.isfinite(value):
            raise RunFailed(f"the loss is {value} at step {step}: try a lower --lr (now {settings.lr:g})")
        if evaluates:
            history["held_out_losses"].append([step, trainer.held_out_loss()])
            report.line(
                f"[Eval {step}/{settings.steps}] | Held-out loss: {history['held_out_losses'][-1][1]:.5f}"
            )
        if saves:
            report.line(f"saved {checkpoint.save(settings.checkpoint, trainer)}")
        if pauses:
            clock.start(step)


def _throughput(clock: StepClock, sides: list[compare.Side], settings: Settings) -> dict | None:
    """Return the median speed over the intervals that count, of the blocks if there was a comparison."""
    if sides:
        warmup, _, block = compare.schedule(settings.steps)
        per_step = [seconds / block for seconds in sides[0].block_seconds]
        measured, excluded = block * len(per_step), warmup
    else:
        intervals = clock.measured()
        per_step = [interval.seconds for interval in intervals]
        measured = sum(interval.last - interval.first for interval in intervals)
        excluded = intervals[0].first - clock.intervals[0].first if intervals else 0
    if not per_step:
        return None
    median = statistics.median(per_step)
    return {
        "tokens_per_second": settings.tokens_per_step / median,
        "step_seconds": median,
        "intervals": len(per_step),
        "steps_measured": measured,
        "steps_excluded": excluded,
    }


def _plan(device: torch.device) -> dict | None:
    """Return how several devices share the step that was asked for last, having run it; None on one device."""
    if device.type != "moai":
        return None
    drain(device)
    return moai._C.explained()


def _plan_rows(device: torch.device) -> list[tuple[str, str]]:
    explained = _plan(device)
    return [] if explained is None else plan_lines(explained, len(moai.stats()["devices"]))


def _counters(device: torch.device) -> dict:
    """Return how many traces and compiles moai made; nothing on another device."""
    if device.type != "moai":
        return {}
    counted = moai.stats()
    return {name: counted[name] for name in ("traces", "compiles")}


def _headline(settings: Settings, text: Text, parameters: int) -> str:
    torch_threads = torch.get_num_threads()
    return table(
        [
            ("model", f"{settings.model}, {parameters:,} parameters, {settings.dtype}"),
            ("device", f"{settings.device}, torch {torch.__version__}, {torch_threads} CPU threads"),
            (
                "text",
                f"{text.source}: {len(text.train):,} bytes, {len(text.held_out):,} held out",
            ),
            (
                "steps",
                f"{settings.steps} of batch {settings.batch} x {settings.seq} bytes, seed {settings.seed}",
            ),
        ]
    )


@contextlib.contextmanager
def _devices(settings: Settings) -> Iterator[None]:
    """Have moai use the devices and memory that `settings` name, for a ``with`` block."""
    if settings.device != "moai":
        yield
        return
    changes = {}
    if settings.devices is not None:
        changes["devices"] = f"cpu:{scaling.counts_of(settings.devices)[0]}"
    elif "MOAI_DEVICES" not in os.environ and moai._C.why_no_gpu():
        changes["devices"] = f"cpu:{DEVICES}"
    if settings.device_memory is not None:
        changes["device_memory"] = settings.device_memory
    before = {name: moai.options.value(name) for name in changes}
    try:
        moai.configure(**changes)
    except ValueError as error:
        raise BadInput(str(error).removeprefix("moai config: ")) from error
    try:
        yield
    finally:
        moai.configure(**before)


def run(settings: Settings) -> dict:
    """Run the main job, print how it goes, and return the results that ``--json`` writes.

    Ctrl-C ends it early: the results then say so, and hold what was finished.
    """
    settings = resolve(settings)
    try:
        with _devices(settings):
            return _run(settings)
    except torch.OutOfMemoryError as error:
        raise RunFailed(str(error)) from error


def _run(settings: Settings) -> dict:
    if settings.peers:
        compare.schedule(settings.steps)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    _check_device(settings)
    text = read_text(settings.data)
    check_size(text, settings.batch, settings.seq)

    device = torch.device(settings.device)
    memory = PeakMemory(device)
    trainer = Trainer(settings, text, settings.device)
    resumed_from = str(checkpoint.resume(settings.checkpoint, trainer)) if settings.resume else None
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    dtype = torch.bfloat16 if settings.dtype == "bf16" else torch.float32
    clock, sides = StepClock(), []
    history = {"losses": [], "held_out_losses": []}
    sample, held_out, matmul, interrupted = None, None, None, False
    begin, cpu_begin = time.perf_counter(), time.process_time()

    with Report(settings.steps, trainer.finished) as report:
        try:
            report.line(_headline(settings, text, parameters))
            if resumed_from is not None:
                report.line(table([("resumed", f"after step {trainer.finished}, from {resumed_from}")]))
            report.doing("measuring")
            matmul = matmul_rate(device, dtype)
            if settings.peers:
                sides = compare.make_sides(settings, trainer)
                compare.run_in_turn(settings, sides, report)
                history["losses"] = [[step, loss] for step, loss in enumerate(sides[0].losses, 1)]
            else:
                report.doing("training")
                train(trainer, clock, report, history)
            report.doing("evaluating")
            held_out = trainer.held_out_loss()
            matmul = max(matmul, matmul_rate(device, dtype))
            if settings.sample_bytes:
                report.doing("writing")
                prompt = prompt_from(text.held_out)
                written = generate(
                    trainer.model, prompt, settings.sample_bytes, settings.seq, device, settings.seed
                )
                sample = {"prompt": readable(prompt), "text": readable(written)}
        except KeyboardInterrupt:
            drain(device)  # what was asked for counts as finished only once it is
            interrupted = True

    finished = trainer.finished
    speed = _throughput(clock, sides, settings)
    flops = trainer.model.flops_per_token(settings.seq)
    results = {
        "settings": dataclasses.asdict(settings),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "parameters": parameters,
        "text": {
            "source": text.source,
            "files": text.files,
            "train_bytes": len(text.train),
            "held_out_bytes": len(text.held_out),
            "digest": text.digest,
        },
        "steps_finished": finished,
        "interrupted": interrupted,
        "resumed_from": resumed_from,
        **history,
        "held_out_loss": held_out,
        "throughput": speed,
        "flops_per_token": flops,
        "matmul_flops_per_second": matmul,
        "mfu": speed["tokens_per_second"] * flops / matmul if speed and matmul else None,
        "peak_host_bytes": memory.host_bytes(),
        "peak_device_bytes": memory.device_bytes(),
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": time.process_time() - cpu_begin,
        **_counters(device),
        "sample": sample,
        "compare": compare.results_of(settings, sides) if sides else None,
        "plan": _plan(device),
    }
    _print_end(results)
    if settings.json is not None:
        write_json(settings.json, results)
    return results


def _print_end(results: dict) -> None:
    sample, compared = results["sample"], results["compare"]
    if sample is not None:
        print(f"\nsample, going on from {len(sample['prompt'])} characters of held-out text:\n")
        print(textwrap.indent((sample["prompt"] + sample["text"]).lstrip("\n").rstrip(), "  "))
    print()
    if compared is not None:
        print(table(compare.comparison_rows(compared)))
    print(table(summary_rows(results)), flush=True)
