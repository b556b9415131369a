"""Predict a training step on a cluster that is not here: what ``moai plan`` and ``moai.plan`` do.

The step is recorded with nothing executed (`moai.dry_run`), and the planner in csrc/plan chooses how to split
it. What it knows so far is stated with each result: see `NOT_YET`.
"""

from __future__ import annotations

import time

import torch

from .. import _C, dry_run
from .models import MODELS, PlanModel

NOT_YET = (
    "pipeline stages, recompute and overlap are not planned yet: times are sums, memory is without recompute"
)
MOST_MICRO_BATCHES = 4096


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
            optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
            tokens = torch.zeros(batch, seq, dtype=torch.long, device="moai")
            for _ in range(2):  # the optimizer's state exists from the second on
                _C.set_dry(True)  # forgets what was recorded, the model's initialisation above all
                loss = model.loss(module, tokens)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
                optimizer.step()
            return _C.dry_step(), sum(p.numel() for p in module.parameters())
    finally:
        torch.set_default_dtype(default)


def plan(model: str, batch: int, seq: int, cluster: str, micro_batches: int | None = None) -> dict:
    """Plan a step of a known model on a cluster, and return what is predicted, as plain values.

    * `model`: a name in `moai.planning.MODELS`, such as ``"llama3-8b"``.
    * `batch`, `seq`: sequences in a step, and tokens in each.
    * `cluster`: ``"h100:8x8"`` (devices per host x hosts), a JSON file, or JSON: docs/clusters.md.
    * `micro_batches`: how many parts the batch is gone through in; None for the fewest that fit, or twice
      those where that is faster.

    Seconds and bytes are predictions, from published figures. Raises `BadPlanInput` on a model that is not
    known or a batch that does not divide, and RuntimeError on a cluster that is not.
    """
    if model not in MODELS:
        raise BadPlanInput(f"unknown model '{model}': choose from {', '.join(MODELS)}")
    if batch < 1 or seq < 2:
        raise BadPlanInput(f"a step needs a sequence of two tokens at least, not {batch} x {seq}")
    if micro_batches is not None and (micro_batches < 1 or batch % micro_batches):
        raise BadPlanInput(f"{micro_batches} micro-batches do not divide a batch of {batch}")
    start = time.perf_counter()
    where = _C.cluster(cluster)
    tried, seconds = [], {"record": 0.0, "rules": 0.0, "search": 0.0}
    counts = [micro_batches] if micro_batches else [2**i for i in range(13) if batch % 2**i == 0]
    for count in counts:
        begin = time.perf_counter()
        graph, parameters = record_step(MODELS[model], batch // count, seq)
        seconds["record"] += time.perf_counter() - begin
        found = _C.plan_step(graph, cluster, count)
        seconds["rules"] += found["frame_seconds"]
        seconds["search"] += found["search_seconds"]
        tried.append(found)
        if len(tried) > 1 and tried[-2]["candidates"][0]["fits"]:
            break
    fitting = [t for t in tried if t["candidates"][0]["fits"]]
    best = min(fitting, key=lambda t: t["candidates"][0]["step_time_s"]) if fitting else tried[-1]
    chosen, fits = best["candidates"][0], bool(fitting)
    seconds["total"] = time.perf_counter() - start
    bound = min(t["lower_bound"] for t in tried)
    return {
        "fits": fits,
        "step_time_s": chosen["step_time_s"] if fits else None,
        "tokens_per_s": batch * seq / chosen["step_time_s"] if fits else None,
        "peak_bytes": chosen["peak_bytes"],
        "layout": chosen["layout"] if fits else None,
        "lower_bound": bound if fits else None,
        "gap": 1 - bound / chosen["step_time_s"] if fits else None,
        "plan_seconds": seconds,
        "model": model,
        "parameters": parameters,
        "batch": batch,
        "seq": seq,
        "micro_batches": best["micro_batches"],
        "cluster": where,
        "time": {"compute_s": chosen["compute_s"], "communicate_s": chosen["communicate_s"]}
        if fits
        else None,
        "bytes": {k: chosen[k] for k in ("bytes_after_forward", "bytes_after_backward", "state_bytes")},
        "axes": chosen["axes"],
        "runners_up": [c for c in best["candidates"][1:] if c["fits"]],
        "kept_whole": {k: best[f"kept_whole_{k}_share"] for k in ("flops", "bytes")},
        "excess": chosen["excess"],
        "not_yet": NOT_YET,
    }
