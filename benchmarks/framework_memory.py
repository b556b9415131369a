"""What a published run held on its fullest GPU, from the dimensions and the layout of its row.

Frameworks hold what no plan of ours does: sums of gradients in fp32, scores of attention that is not fused, the
weights that FSDP has gathered. The terms follow V. Korthikanti et al., Reducing Activation Recomputation in Large
Transformer Models (2022), D. Narayanan et al., Efficient Large-Scale Language Model Training (2021), and S.
Rajbhandari et al., ZeRO (2020). What is in no tensor (the context, communicators, the allocator's caches) is one
of a family's constants.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from decoder import Dimensions


@dataclass(frozen=True)
class Layout:
    """What a row says of where things lie and what is kept."""

    tp: int
    cp: int
    pp: int
    ep: int
    chunks: int
    micro_batch: int
    micro_batches: int
    zero: int  # FSDP is 3
    shards: int  # in how many parts ZeRO has states
    fp16: bool
    recompute: str
    fused: bool  # attention keeps no scores, and positions are split between products; since 2022
    compiled: bool  # pointwise ops are fused


def kept_bytes(d: Dimensions, at: Layout) -> float:
    """Activations of a layer that backward reads, of one micro-batch."""
    tokens = at.micro_batch * d.seq / at.cp
    inputs = 2 * tokens * d.hidden / (at.tp if at.fused else 1)
    if at.recompute == "full":
        return inputs
    queries, keys = (2 * tokens * heads * d.head_dim / at.tp for heads in (d.heads, d.kv_heads))
    wide = 2 * tokens * d.ffn * (d.top_k if d.experts else 1) / at.tp
    gated = d.mlp == "gated"
    # Queries, keys, values and what comes of their mix; what an MLP widens to and comes back to.
    products = queries + 2 * keys + wide * (2 if gated else 1) + 2 * inputs
    if at.recompute == "selective" and at.fused:
        return inputs + products / 2 + queries  # of two products one is computed again, attention is not
    # The mix, both norms' inputs and results, and what pointwise ops make of the products.
    held = products + queries + 2 * inputs + wide
    if gated and not at.compiled:
        # The gate apart, norms in fp32, and queries and keys in fp32 where they are turned by their positions.
        held += wide + 4 * inputs + 2 * (queries + keys)
    if not at.fused:
        held += inputs  # two masks of dropout, a byte each
        if at.recompute == "none":
            # Scores after softmax and after dropout, and its mask.
            held += 5 * at.micro_batch * d.heads / at.tp * d.seq**2
    return held


def bytes_per_parameter(at: Layout) -> tuple[float, float]:
    """What is whole, and what ZeRO splits (all of it here)."""
    if at.zero == 3:
        # States, fp32 weights and their gradients; in a pipeline gathered weights and unsplit gradients stay
        # until all micro-batches are through.
        return (2.0 + 4.0 if at.pp > 1 else 0.0), 16.0
    # Backward's gradients; where weights are bf16 their sums over micro-batches, in fp32.
    gradients = 2.0 if at.fp16 else 2.0 + 4.0
    if at.zero == 2:
        return 2.0, 12.0 + gradients
    return 2.0 + gradients, 12.0


def in_flight(at: Layout, stage: int) -> float:
    """Micro-batches whose activations a stage holds at most, under (interleaved) 1F1B."""
    ahead = at.pp - 1 - stage
    if at.chunks == 1:
        return min(ahead + 1, at.micro_batches)
    return min((2 * ahead + (at.chunks - 1) * at.pp + 1) / at.chunks, at.micro_batches)


def stage_bytes(d: Dimensions, at: Layout, stage: int) -> float:
    """On a GPU of this stage of the pipeline."""
    layers = -(-d.layers // at.pp)
    is_last = stage == at.pp - 1
    mlp = d.hidden * d.ffn * (3 if d.mlp == "gated" else 2) / at.tp
    attention = d.hidden * d.head_dim * (2 * d.heads + 2 * d.kv_heads) / at.tp
    tables = (stage == 0) + (is_last and (at.pp > 1 or not d.tied))
    dense = layers * (attention + (0 if d.experts else mlp)) + tables * (d.vocab or 2) * d.hidden / at.tp
    experts = layers * mlp * d.experts / at.ep
    whole, split = bytes_per_parameter(at)
    shards = at.shards if at.zero else 1
    held = dense * (whole + split / shards) + experts * (whole + split / max(1, shards / at.ep))
    if at.zero == 3 and at.pp == 1:
        # A layer's gathered weights and the next one's, and its gradients.
        held += (2 * 2.0 + 4.0) * (dense + experts) / layers
    held += layers * kept_bytes(d, at) * in_flight(at, stage)
    if at.recompute == "full":
        held += kept_bytes(d, replace(at, recompute="none"))
    if is_last:
        # Logits in 16 bits and in fp32, which become their own gradients.
        held += (2 + 4) * at.micro_batch * d.seq / at.cp * (d.vocab or 2) / at.tp
    return held


def peak_bytes(d: Dimensions, at: Layout) -> float:
    """In tensors, on the fuller one of a pipeline's ends."""
    return max(stage_bytes(d, at, stage) for stage in (0, at.pp - 1))
