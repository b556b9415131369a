"""What messages take in frameworks of published runs that a plan of ours has otherwise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moai import _C

if TYPE_CHECKING:
    from published import Row

# Those whose ZeRO 1 brings updated weights to all when the optimizer is done, where others gather them in buckets beside
# the next forward. In InternEvo one device after another broadcasts its part (`broadcast_params`): with many devices that
# is as slow as a ring for each weight. In nanotron all come at once, and each part of each weight is sliced and copied by
# itself (`_all_gather_params`).
IN_TURN, COPIED = {"internevo"}, {"nanotron"}
# Of a script's thread: a slice, two views and the launch of a copy.
PIECE_SECONDS = 6e-6
# Those that gather in 8 bits what they multiply in 8 bits: FSDP2's float8 all-gather of weights, and that of activations
# in tensor parallelism (torchao).
NARROW = {"titan"}
# Those whose ZeRO 1 adds up whole gradients on all devices, each of which then takes its part, where others bring each
# part to its owner alone; in how many times the bytes of 16 bits (InternEvo's `_reduce_and_copy`, nanotron's
# `get_fp32_accum_hook`).
WHOLE = {"internevo": 1, "nanotron": 2}


@dataclass
class More:
    """Seconds that messages over some links take longer, and seconds that a step does so; negative where less."""

    seconds: float = 0.0
    shown: float = 0.0

    def add(self, seconds: float, waits: float) -> None:
        """So much more, of which a part `waits`."""
        self.seconds += seconds
        self.shown += waits * seconds


def gathers_last(family: str) -> bool:
    """Whether updated weights are gathered when the optimizer is done, and not beside the next forward."""
    return family in IN_TURN | COPIED


def links_of(message: dict, networks: list[bool]) -> str:
    """Which links a message uses, told by the slowest; `networks` as `published.parts_of` has them."""
    return "across" if networks[1 + message["axis"]] else "inside"


def of(
    row: Row,
    found: dict,
    networks: list[bool],
    cluster: str,
    must_wait: float,
    overlap: float,
) -> dict[str, More]:
    """By links, what the messages of the row's framework take beyond those of the plan `found`, of whose messages the
    part `must_wait` is not hidden. A device hides `overlap` of what could be."""
    more = {"inside": More(), "across": More()}
    is_narrow = row.family in NARROW and row.precision == "fp8"
    for message in found["breakdown"]["messages"]:
        there, kind = more[links_of(message, networks)], message["collective"]
        is_once, seconds = message["once_a_step"], message["seconds"]
        is_of_weights = message["axis_name"] == "data" and is_once and message["count"] > 0
        if is_of_weights and kind == "all-gather" and row.family in IN_TURN:
            there.add(max(0.0, one_by_one(message, found, cluster, kind, 1, in_ring=True) - seconds), 1)
        if is_of_weights and kind == "all-gather" and row.family in COPIED:
            there.add(message["count"] * found["mesh"][message["axis"]] * PIECE_SECONDS, 1)
        if is_of_weights and kind == "reduce-scatter" and row.family in WHOLE:
            summed = one_by_one(message, found, cluster, "all-reduce", WHOLE[row.family])
            there.add(summed - seconds, must_wait)
        if is_narrow:
            there.add(-gathering(message) * seconds / 2, must_wait)
            seconds *= 1 - gathering(message) / 2
        if row.says("async TP") and message["axis_name"] == "tensor" and not is_once:
            # Products go on with what has come.
            there.shown -= overlap * seconds
    return more


def gathering(message: dict) -> float:
    """The part of a message's time in which products' operands are gathered."""
    if (
        message["axis_name"] == "tensor"
        and not message["once_a_step"]
        and message["collective"] == "all-reduce"
    ):
        return 0.5  # sums are scattered, and gathered again for the next product
    return float(message["collective"] == "all-gather" and message["axis_name"] in ("data", "tensor"))


def one_by_one(
    message: dict, found: dict, cluster: str, collective: str, widened: float, *, in_ring: bool = False
) -> float:
    """Seconds of a step's messages as `collective`, each with `widened` times its bytes."""
    axis, count = message["axis"], message["count"]
    stride = math.prod(found["mesh"][axis + 1 :])
    each = message["bytes"] / count * widened
    return count * _C.collective_seconds(cluster, collective, stride, found["mesh"][axis], each, in_ring)
