"""What messages take in frameworks of published runs that a plan of ours has otherwise."""

from __future__ import annotations

import math
from dataclasses import dataclass

from moai import _C

# Those whose ZeRO 1 brings each updated weight to all by itself when the optimizer is done, where others gather them
# in buckets beside the next forward.
APART = {"internevo", "nanotron"}
# Those that gather weights in 8 bits where they multiply in 8 bits: FSDP2's float8 all-gather (torchao).
NARROW = {"titan"}
# Those whose ZeRO 1 adds up whole gradients in fp32 on all devices, each of which then takes its part
# (nanotron's get_fp32_accum_hook), where others bring each part to its owner in 16 bits.
WHOLE = {"nanotron"}


@dataclass
class More:
    """Seconds that messages over some links take longer: of them `waits` beside nothing, the others as messages do.

    Negative where they take less.
    """

    seconds: float = 0.0
    waits: float = 0.0

    def shown(self, must_wait: float) -> float:
        """What a step takes longer, where messages wait for `must_wait` of their time."""
        return self.waits + must_wait * (self.seconds - self.waits)


def gathers_last(family: str) -> bool:
    """Whether updated weights are gathered when the optimizer is done, and not beside the next forward."""
    return family in APART


def links_of(message: dict, networks: list[bool]) -> str:
    """Which links a message uses, told by the slowest; `networks` as `published.parts_of` has them."""
    return "across" if networks[1 + message["axis"]] else "inside"


def of(row, found: dict, networks: list[bool], cluster: str) -> dict[str, More]:  # noqa: ANN001
    """By links, what the messages of the row's framework take beyond those of the plan `found`."""
    more = {"inside": More(), "across": More()}
    for message in found["breakdown"]["messages"]:
        there = more[links_of(message, networks)]
        is_of_weights = message["axis_name"] == "data" and message["count"] > 0
        is_once, kind = message["once_a_step"], message["collective"]
        if is_of_weights and is_once and kind == "all-gather" and row.family in APART:
            # A ring of many devices is slow to come round, and with few bytes that is all its time.
            ring = one_by_one(message, found, cluster, kind, 1, in_ring=True)
            longer = max(0.0, ring - message["seconds"])
            there.seconds += longer
            there.waits += longer
        if is_of_weights and is_once and kind == "reduce-scatter" and row.family in WHOLE:
            # Twice the bytes of 16 bits.
            there.seconds += one_by_one(message, found, cluster, "all-reduce", 2) - message["seconds"]
        if is_of_weights and kind == "all-gather" and row.family in NARROW and row.precision == "fp8":
            there.seconds -= message["seconds"] / 2
    if row.tied_embeddings == "y" and found["stages"] > 1:
        # The first and the last stage have a copy each of the table, and add up its gradients when all are there.
        stages = more["across" if networks[0] else "inside"]
        bytes_of_each = 4 if row.family in WHOLE else 2
        size = row.need("vocab") * row.need("hidden") / row.need("tp") * bytes_of_each
        half = math.prod([found["stages"], *found["mesh"]]) // 2
        taken = _C.collective_seconds(cluster, "all-reduce", half, 2, size)
        stages.seconds += taken
        stages.waits += taken
    return more


def one_by_one(
    message: dict, found: dict, cluster: str, collective: str, widened: float, *, in_ring: bool = False
) -> float:
    """Seconds of a step's messages as `collective`, each with `widened` times its bytes."""
    axis, count = message["axis"], message["count"]
    stride = math.prod(found["mesh"][axis + 1 :])
    each = message["bytes"] / count * widened
    return count * _C.collective_seconds(cluster, collective, stride, found["mesh"][axis], each, in_ring)
