"""Predict a training step on a cluster that is not here: what ``moai plan`` and ``moai.plan`` do.

The step is recorded with nothing executed (`moai.dry_run`), and the planner in csrc/plan chooses how to split
it.
"""

from __future__ import annotations

import time

import torch

from .. import _C, dry_run
from ..machine import resolved
from .models import MODELS, PlanModel
from .script import RecordedStep, ScriptFailed, record_script

__all__ = ["MODELS", "BadPlanInput", "ScriptFailed", "plan", "plan_script"]

# What of the best plan stands in the result under its own name.
CHOICES = (
    "mesh", "axes", "tensors", "stages", "chunks", "order", "stage_begins", "micro_batches", "recompute", "capacity", "offload", "time",
    "bytes", "host_bytes", "memory_parts",
)  # fmt: skip


class BadPlanInput(ValueError):
    """What was asked for cannot be planned; the message says what would work."""


def record_step(model: PlanModel, batch: int, seq: int) -> tuple[str, int]:
    """Record a step of `batch` x `seq` tokens (forward, loss, backward, clip, fused AdamW), running nothing.

    Returns its graph as text and the number of the model's parameters.
    """
    default = torch.get_default_dtype()
    torch.set_default_dtype(model.dtype)
    try:
        with dry_run():
            with torch.device("moai"):
                module = model.build()
            optimizer = optimizer_of(module)
            tokens = torch.zeros(batch, seq, dtype=torch.long, device="moai")
            for _ in range(2):  # the optimizer's state exists from the second on
                _C.set_dry(True)  # forgets what was recorded, the model's initialisation above all
                loss = take_step(model, module, optimizer, tokens)  # which a script still holds
            graph = _C.dry_step()
            del loss
            return graph, sum(p.numel() for p in module.parameters())
    finally:
        torch.set_default_dtype(default)


def optimizer_of(module: torch.nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of the models that are known."""
    return torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)


def take_step(
    model: PlanModel, module: torch.nn.Module, optimizer: torch.optim.Optimizer, tokens: torch.Tensor
) -> torch.Tensor:
    """Train on these tokens once, and return the loss."""
    loss = model.loss(module, tokens)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()
    return loss


def ops_in(graph: str) -> int:
    """How many of torch's ops a recorded step has, views apart."""
    return graph.count("aten.")


def plan(model: str, batch: int, seq: int, cluster: str, pin: str = "", saved: str = "") -> dict:
    """Plan a step of a known model on a cluster, and return what is predicted, as plain values.

    * `model`: a name in `moai.planning.MODELS`, such as ``"llama3-8b"``.
    * `batch`, `seq`: sequences in a step, and tokens in each.
    * `cluster`: ``"h100:8x8"`` (devices per host x hosts), a JSON file, or JSON: docs/clusters.md.
    * `pin`: what is settled beforehand, as ``"dp=8,tp=2,pp=1,micro=4,zero=1,recompute=full"``; the rest is
      chosen. Also ``sp`` (sequence), ``ep`` (experts),
      ``experts`` (``sp+tp``: along these axes too), ``chunks`` and ``order`` of a pipeline.
    * `saved`: a plan to follow instead, as JSON: what an earlier result has under ``"plan"``, edited or not
      (docs/plans.md).

    Seconds and bytes are predictions, from published figures. Raises `BadPlanInput` on a model that is not
    known or has fewer positions, and RuntimeError on a cluster that is not known, or a pin that cannot be.
    """
    if model not in MODELS:
        raise BadPlanInput(f"unknown model '{model}': choose from {', '.join(MODELS)}")
    if batch < 1 or seq < 2:
        raise BadPlanInput(f"a step needs a sequence of two tokens at least, not {batch} x {seq}")
    most = MODELS[model].most_positions
    if most is not None and seq > most:
        raise BadPlanInput(
            f"{model} has {most} positions, too few for sequences of {seq} tokens\n"
            f"  would work: --seq {most}, or a model with rotary positions, as llama3-8b"
        )
    _C.cluster(resolved(cluster).text)  # a mistake in it is known before anything is recorded
    start = time.perf_counter()
    graph, parameters = record_step(MODELS[model], batch, seq)
    recorded = time.perf_counter() - start
    found = plan_graph(graph, cluster, pin, saved, record_seconds=recorded)
    found.update(model=model, parameters=parameters)
    return found


def plan_script(script: str, arguments: list[str], cluster: str, pin: str = "", saved: str = "") -> dict:
    """Run a user's script dry, plan the step that it makes, and return what is predicted, as `plan` does.

    Nothing is executed: what reads a value gets zeros (``"reads"`` in the result has the lines), and the script
    ends after one repeated step. Raises `ScriptFailed` where the script gives no step, naming its line.
    """
    return plan_recorded(record_script(script, arguments), cluster, pin, saved)


def plan_recorded(step: RecordedStep, cluster: str, pin: str = "", saved: str = "") -> dict:
    """Plan a script's step, which may be recorded once and planned often."""
    found = plan_graph(step.graph, cluster, pin, saved, step.rounds, step.seconds)
    found.update(
        model=step.script, parameters=step.parameters, reads=step.reads, largest=step.largest,
        steps_recorded=step.steps, optimizers=step.optimizers, steps_alike=step.settled,
        other_sizes=step.other_sizes,
    )  # fmt: skip
    for op in (*found["kept_whole_ops"], *found["memory_parts"]):
        op["line"] = step.line_of_op.get(".".join(op["op"].split(".")[:2]), "")
    return found


def plan_graph(
    graph: str,
    cluster: str,
    pin: str = "",
    saved: str = "",
    rounds: int = 1,
    record_seconds: float = 0,
) -> dict:
    """Plan a recorded step, given as text; what `plan` returns but for the model's own fields.

    `rounds`: of forward and backward over a batch each, that the step itself goes through.
    """
    start = time.perf_counter()
    on, ops = resolved(cluster), ops_in(graph)
    where = _C.cluster(on.text)
    found = _C.plan_step(graph, on.text, pin, saved)
    for candidate in found["candidates"]:
        script_s = on.script_seconds(ops, candidate["step_time_s"])
        candidate["time"]["script_s"] = script_s
        candidate["step_time_s"] += script_s
    best = found["candidates"][0]
    fits = best["fits"]
    seconds, tokens, sizes = best["step_time_s"], found["tokens"] or None, found["token_sizes"]
    # A data set that lies on the devices is no batch, and neither is a batch whose samples are not its rows.
    batch = found["batch"] if not tokens or sizes[0] == found["batch"] else 0
    return {
        "fits": fits,
        "step_time_s": seconds if fits else None,
        "tokens_per_s": tokens / seconds if fits and tokens is not None else None,
        "samples_per_s": batch * rounds / seconds if fits and batch else None,
        "peak_bytes": best["peak_bytes"],
        "layout": best["layout"] if fits else None,
        "lower_bound": found["lower_bound"] if fits else None,
        "gap": found["gap"] if fits else None,
        "mesh_gap": found["mesh_gap"] if fits else None,
        "plan_seconds": {
            "record": record_seconds,
            "rules": found["rules_seconds"],
            "bounds": found["bound_seconds"],
            "search": found["search_seconds"],
            "total": record_seconds + time.perf_counter() - start,
        },
        "batch": batch,
        "seq": sizes[1] if batch and len(sizes) > 1 else None,
        "tokens": tokens,
        "rounds": rounds,
        "pin": pin,
        "cluster": where,
        **{k: best[k] for k in CHOICES},
        "sum_s": best["sum_s"],
        "flops": found["flops"],
        "utilisation": _utilisation(found["flops"], best["step_time_s"], where) if fits else None,
        "tried": found["tried"],
        "ruled_out": found["ruled_out"],
        "no_micro_batches": found["no_micro_batches"],
        "runners_up": [c for c in found["candidates"][1:] if c["fits"]],
        "too_large": [c for c in found["candidates"] if not c["fits"]],
        "kept_whole": {k: found[f"kept_whole_{k}_share"] for k in ("flops", "bytes")},
        "kept_whole_ops": [
            dict(zip(("op", "why", "flops", "bytes", "nodes"), row, strict=True))
            for row in found["kept_whole"]
        ],
        "excess": best["excess"],
        "breakdown": best["breakdown"],
        "picture": best["picture"],
        "plan": found["saved"],
    }


def _utilisation(flops: float, seconds: float, where: dict) -> float:
    """The step's own FLOPs (nothing that is computed twice) over what all devices could do meanwhile."""
    return flops / seconds / where["devices"] / where["flops"]
