"""The same steps in plain PyTorch, in turn with the device's: who is faster, and do the losses agree?

Sides take turns in blocks of steps, so that whatever else the machine does in the meantime falls on all of them;
the first side of a round is another one each time.
"""

import statistics
import time
from dataclasses import dataclass, field

from .errors import BadInput
from .measure import drain
from .options import Settings
from .report import Report, step_line
from .trainer import Trainer

MIN_ROUNDS, MAX_ROUNDS = 5, 10
MIN_WARMUP = 3


@dataclass
class Side:
    """One contender and what it has done. Time and CPU-seconds are per block and leave out warm-up."""

    name: str
    trainer: Trainer
    losses: list[float] = field(default_factory=list)
    block_seconds: list[float] = field(default_factory=list)
    block_cpu_seconds: list[float] = field(default_factory=list)
    failure: str | None = None

    def run_block(self, steps: int, counted: bool) -> float:
        """Take `steps` steps from a drained device to a drained device; return the seconds of one."""
        drain(self.trainer.device)
        cpu, begin = time.process_time(), time.perf_counter()
        losses = [self.trainer.step() for _ in range(steps)]
        losses[-1].item()
        drain(self.trainer.device)
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
        self.losses += [loss.item() for loss in losses]
        if counted:
            self.block_seconds.append(seconds)
            self.block_cpu_seconds.append(cpu)
        return seconds / steps


def schedule(steps: int) -> tuple[int, int, int]:
    """Return warm-up steps, rounds, and steps a side takes in each round; together they are `steps`."""
    left = steps - MIN_WARMUP
    if left < MIN_ROUNDS:
        raise BadInput(
            f"--compare needs {MIN_ROUNDS + MIN_WARMUP} steps or more: give --steps {MIN_ROUNDS + MIN_WARMUP}"
        )
    rounds = MAX_ROUNDS if left >= 2 * MAX_ROUNDS else MIN_ROUNDS
    block = left // rounds
    return steps - rounds * block, rounds, block


def make_sides(settings: Settings, trainer: Trainer) -> list[Side]:
    """Return the device's side, then those that --compare names: same weights, same batches."""
    sides = [Side(settings.device, trainer)]
    for name in settings.peers:
        sides.append(Side(name, Trainer(settings, trainer.text, "cpu", compiled=name == "compile")))
    return sides


def run_in_turn(settings: Settings, sides: list[Side], report: Report) -> None:
    """Run every step on every side. The device's side prints its lines; one that fails drops out, with its reason."""
    warmup, rounds, block = schedule(settings.steps)
    for number in range(rounds + 1):
        steps = block if number else warmup
        first = number % len(sides)
        for side in sides[first:] + sides[:first]:
            if side.failure is not None:
                continue
            report.doing(f"{side.name}, round {number} of {rounds}" if number else f"{side.name}, warm-up")
            try:
                seconds = side.run_block(steps, counted=number > 0)
            except Exception as error:
                if side is sides[0]:
                    raise
                side.failure = (str(error).strip() or type(error).__name__).splitlines()[0]
                report.line(f"{side.name} failed and drops out: {side.failure}")
                continue
            if side is sides[0]:
                finished = side.trainer.finished
                report.line(
                    step_line(finished, settings.steps, side.losses[-1], seconds, settings.tokens_per_step)
                )
                report.finished(finished)


def speed_ratio(mine: list[float], theirs: list[float]) -> dict | None:
    """Return how many times faster `mine` is, by round; None before the first round."""
    ratios = [other / own for own, other in zip(mine, theirs, strict=False)]
    if not ratios:
        return None
    low, high = min(ratios), max(ratios)
    # A difference is called real only if every round shows it.
    verdict = "faster" if low > 1 else "slower" if high < 1 else "no difference shown"
    return {
        "median": statistics.median(ratios),
        "low": low,
        "high": high,
        "rounds": len(ratios),
        "verdict": verdict,
    }


def results_of(settings: Settings, sides: list[Side]) -> dict:
    """Return the comparison as plain values, the speed ratios first."""
    warmup, rounds, block = schedule(settings.steps)
    mine, *others = sides
    ratios, differences = {}, {}
    for side in others:
        if side.failure is None:
            ratios[side.name] = speed_ratio(mine.block_seconds, side.block_seconds)
            gaps = [abs(a - b) for a, b in zip(mine.losses, side.losses, strict=False)]
            differences[side.name] = (
                {"largest": max(gaps), "step": gaps.index(max(gaps)) + 1} if gaps else None
            )
    return {
        "speed_ratio": ratios,
        "loss_difference": differences,
        "step_seconds": {
            s.name: statistics.median(s.block_seconds) / block for s in sides if s.block_seconds
        },
        "cpu_seconds": {s.name: sum(s.block_cpu_seconds) for s in sides},
        "failures": {s.name: s.failure for s in sides if s.failure is not None},
        "device": mine.name,
        "warmup_steps": warmup,
        "rounds": rounds,
        "steps_per_round": block,
    }


def comparison_rows(compared: dict) -> list[tuple[str, str]]:
    """Return the rows printed at the end of a comparison."""
    rows = []
    for name, ratio in compared["speed_ratio"].items():
        if ratio is not None:
            spread = f"{ratio['low']:.3f} to {ratio['high']:.3f} over {ratio['rounds']} rounds"
            rows.append((f"vs {name}", f"{ratio['median']:.3f} x the speed ({spread}): {ratio['verdict']}"))
    for name, failure in compared["failures"].items():
        rows.append((f"vs {name}", f"not compared: {failure}"))
    if not compared["step_seconds"]:  # interrupted before the first round
        return rows
    rows.append(("a step took", ", ".join(f"{n} {s:.4f} s" for n, s in compared["step_seconds"].items())))
    rows.append(
        ("CPU-seconds", ", ".join(f"{name} {cpu:.2f}" for name, cpu in compared["cpu_seconds"].items()))
    )
    for name, gap in compared["loss_difference"].items():
        if gap is not None:
            rows.append(
                ("loss", f"differs from {name}'s by {gap['largest']:.2e} at most, at step {gap['step']}")
            )
    rows.append(
        (
            "rounds",
            f"{compared['rounds']} of {compared['steps_per_round']} steps a side, in turn, after"
            f" {compared['warmup_steps']} of warm-up",
        )
    )
    return rows
