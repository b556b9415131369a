"""Rows of published training runs: what each is a prediction of, and the prediction."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import decoder
import framework_memory
import framework_messages
import moai
import torch
from moai import _C

# The names of hardware.csv, and the profile of each.
DEVICES = {
    "V100-SXM2-16GB": "v100", "V100-SXM2-32GB": "v100-32", "A100-SXM-40GB": "a100-40", "A100-SXM-80GB": "a100-80",
    "A100-PCIe-40GB": "a100-pcie-40", "A100-PCIe-80GB": "a100-pcie-80", "H100-SXM-80GB": "h100",
    "H100-SXM-96GB-HBM2e": "h100-96", "H100-PCIe-80GB": "h100-pcie", "H200-SXM": "h200", "B200": "b200", "B300": "b300",
    "GB200": "gb200", "GB300": "gb300", "MI250": "mi250", "MI250-GCD": "mi250-gcd", "MI250X-GCD": "mi250x-gcd",
    "MI300X": "mi300x", "MI325X": "mi325x", "RTX3090": "rtx3090", "RTX4090": "rtx4090", "L40S": "l40s", "A10G": "a10g",
}  # fmt: skip
NETWORKS = {"InfiniBand", "RoCE", "EFA", "Ethernet", "Slingshot"}
# Of a NIC's nominal rate, as in the profiles (docs/clusters.md).
NIC_EFFICIENCY = 0.94
# Megatron and Alpa before FlashAttention: scores of attention go through memory.
UNFUSED = {"alpa", "bloom", "ds3", "megatron-sc21", "megatron-seqsel", "tr3m"}
# Bytes that a score costs a step of such attention: about 13 in forward (products' result, softmax, dropout and its
# mask, each written and read in 16 bits) and twice that in backward.
SCORE_BYTES = 40
GIB = 2**30
# Products in 8 bits, of the part of the peak that those in 16 bits reach: 1402.6 of 1979 against 794.5 of 989 TFLOP/s,
# H100's best shapes (docs/clusters.md).
FP8_PART = 0.88
ZERO = {"none": 0, "zero1": 1, "zero2": 2, "fsdp": 3, "hsdp": 3}
# What is pinned has run, so it fitted: memory does not limit the prediction.
PLENTY = 10**15


class NotPredicted(ValueError):
    """The row lacks what a prediction needs, or the planner cannot do what it says."""


@dataclass(frozen=True)
class Constants:
    """What a family of software reaches on a type of GPU: eight numbers at most."""

    products: float = 1.0  # of the profile's rate of matrix products
    attention: float = 1.0  # of the profile's rate
    memory: float = 1.0  # of the profile's rate: above 1 where ops are fused
    overhead: float = 1.0  # of the profile's gap between two ops, of which an op of ours is one or several
    inside: float = 1.0  # of the profile's rate inside a host
    across: float = 1.0  # of the profile's rate across hosts
    overlap: float = 1.0  # part of messages beside computing that is hidden
    held: float = 0.0  # GiB of a GPU that are in no tensor


@dataclass
class Row:
    """One run, with numbers as numbers; what the source does not say is None."""

    fields: dict[str, str]

    def __getattr__(self, name: str) -> str:
        try:
            return self.__dict__["fields"][name]
        except KeyError:
            raise AttributeError(name) from None

    def number(self, name: str) -> int | None:
        text = self.fields.get(name, "")
        return int(float(text)) if text else None

    @property
    def family(self) -> str:
        return self.group.split("|")[0]

    @property
    def measured(self) -> float | None:
        """Seconds of a step."""
        if self.step_time_s:
            return float(self.step_time_s)
        if self.tokens_per_s_per_gpu and self.global_batch and self.gpus:
            tokens = int(self.global_batch) * int(self.seq_len)
            return tokens / (float(self.tokens_per_s_per_gpu) * int(self.gpus))
        return None

    def says(self, words: str) -> bool:
        """Whether its notes have these words, which no column is for."""
        return words in self.fields.get("notes", "")

    def need(self, name: str) -> int:
        value = self.number(name)
        if value is None:
            raise NotPredicted(f"its {name} is not stated")
        return value

    def dimensions(self) -> decoder.Dimensions:
        """What a step of it computes."""
        experts = self.number("num_experts") or 0
        heads = self.need("heads")
        return decoder.Dimensions(
            layers=self.need("layers"), hidden=self.need("hidden"), ffn=self.need("ffn_hidden"), heads=heads,
            kv_heads=self.number("kv_heads") or heads, head_dim=self.number("head_dim") or self.need("hidden") // heads,
            mlp=self.mlp, vocab=self.number("vocab") or 0, tied=self.tied_embeddings == "y", experts=experts,
            top_k=self.number("top_k") or 1, seq=self.need("seq_len"), batch=self.need("global_batch"),
            dtype=self.precision if self.precision in ("fp16", "fp8") else "bf16", parts=self.token_parts() if experts else 1,
        )  # fmt: skip

    def pins(self, recompute: str) -> str:
        """Its layout, as the planner's pins."""
        dp, tp, cp, pp = (self.need(name) for name in ("dp", "tp", "cp", "pp"))
        ep = self.number("ep") or 1
        along = []
        if self.experts_whole:
            for name, size in (("tp", tp), ("sp", cp)):
                if size > 1 and ep % size == 0:
                    along.append(name)
                    ep //= size
        if dp % ep:
            raise NotPredicted(f"expert parallelism of {ep} does not lie inside of data parallelism of {dp}")
        turns = self.need("global_batch") // (dp * self.micro_batch())
        copies = self.copies(dp // ep)
        pins = f"copies={copies},dp={dp // ep // copies},ep={ep},sp={cp},tp={tp},pp={pp}"
        pins += f",micro={turns},recompute={recompute}"
        if pp > 1:
            pins += f",chunks={self.chunks()},order=1f1b,sends=parts"
        if self.optimizer_sharding and dp > 1:
            # In a pipeline FSDP keeps what it has gathered until all micro-batches are through.
            zero = ZERO[self.optimizer_sharding]
            pins += f",zero={min(zero, 2) if pp > 1 else zero}"
        if along:
            pins += f",experts={'+'.join(along)}"
        return pins if framework_messages.gathers_last(self.family) else pins + ",gathers=ahead"

    @property
    def experts_whole(self) -> bool:
        """Whether tensor parallelism leaves experts whole: then they lie along its axis first, and next along that of
        context parallelism (Megatron-Core's parallel folding)."""
        return self.says("expert-TP=1")

    def token_parts(self) -> int:
        """Into how many parts the positions of a sample fall that are sent to experts by themselves."""
        return (self.number("cp") or 1) * (self.need("tp") if self.experts_whole else 1)

    def micro_batch(self) -> int:
        """Sequences. Where the source does not say: PyTorch's pipelines have as many micro-batches as stages
        unless told otherwise; others go one by one."""
        stated = self.number("micro_batch")
        if stated:
            return stated
        of_device, pp = self.need("global_batch") // self.need("dp"), self.need("pp")
        return of_device // pp if ZERO.get(self.optimizer_sharding) == 3 and of_device % pp == 0 else 1

    def copies(self, dp: int) -> int:
        """Into how many groups data parallelism of `dp` falls that each hold all states."""
        shards = self.number("shard_degree") or dp
        return dp // shards if 0 < shards < dp and dp % shards == 0 else 1

    def chunks(self) -> int:
        """Virtual stages on a device. 1 where the source says so; where it does not, the schedule is
        interleaved, and it is as few as divide the layers (some count embedding and loss as layers)."""
        layers, pp = self.need("layers"), self.need("pp")
        stated = self.number("vp")
        if stated:
            return stated
        fit = (n for n in range(2, 8) if layers % (pp * n) == 0 or (layers + 2) % (pp * n) == 0)
        return next(fit, 1)

    def memory_layout(self, recompute: str) -> framework_memory.Layout:
        """Where its framework had things."""
        dp, cp, pp = self.need("dp"), self.need("cp"), self.need("pp")
        return framework_memory.Layout(
            tp=self.need("tp"), cp=cp, pp=pp, ep=self.number("ep") or 1, chunks=self.chunks() if pp > 1 else 1,
            micro_batch=self.micro_batch(), micro_batches=self.need("global_batch") // (dp * self.micro_batch()),
            zero=ZERO.get(self.optimizer_sharding, 0), shards=self.number("shard_degree") or dp * cp,
            fp16=self.precision == "fp16", recompute=recompute, fused=self.family not in UNFUSED,
            compiled=self.compile == "y",
        )  # fmt: skip

    def recomputes(self) -> list[str]:
        """What it may have computed again: all three where that is not stated."""
        return ["none", "selective", "full"] if self.recompute in ("", "unknown") else [self.recompute]

    def unfused_rate(self, products: float, bytes_per_s: float) -> float:
        """FLOP/s, counted as fused causal attention has them, of attention that is not fused: it multiplies the
        masked half too, and its scores go through memory."""
        width = self.dimensions().head_dim
        return 7 * width / (14 * width / products + SCORE_BYTES / bytes_per_s)

    def cluster(self, constants: Constants) -> str:
        """The machines that it ran on, as JSON."""
        device = DEVICES.get(self.gpu)
        if device is None:
            raise NotPredicted(f"GPU {self.gpu} has no profile")
        gpus, per_host = self.need("gpus"), self.number("gpus_per_node") or 8
        hosts = max(1, gpus // per_host)
        where = json.loads(_C.cluster(f"{device}:{gpus // hosts}x{hosts}")["json"])
        kind = where["kinds"][0]
        kind["memory_bytes"] = PLENTY
        kind["memory_bytes_per_s"] *= kind["memory_efficiency"]
        kind["memory_efficiency"] = 1
        kind["op_overhead_s"] *= constants.overhead
        kind["overlap"] = min(1.0, constants.overlap)
        half = "flops_bf16" if kind["flops_bf16"] else "flops_fp16"
        attention = kind[half] * kind["attention_efficiency"]
        if self.family in UNFUSED:
            attention = self.unfused_rate(kind[half] * kind["gemm_efficiency"], kind["memory_bytes_per_s"])
        attention *= constants.attention
        rate = kind[half] * kind["gemm_efficiency"] * constants.products
        narrow = rate
        if self.precision == "fp8" and kind["flops_fp8"]:
            narrow = kind["flops_fp8"] * kind["gemm_efficiency"] * constants.products * FP8_PART
        most = max(narrow, attention)
        # In fp8 the decoder's blocks are of fp16, and its head of bf16: see decoder.py.
        kind["flops_fp16"] = most
        kind["flops_bf16"] = most * rate / narrow
        kind["gemm_efficiency"] = narrow / most
        kind["attention_efficiency"] = attention / most
        kind["memory_bytes_per_s"] *= constants.memory
        for level in where["levels"]:
            if level["name"] in NETWORKS:
                if self.net_gbps_per_gpu:
                    level["bytes_per_s"] = float(self.net_gbps_per_gpu) / 8 * 1e9 * NIC_EFFICIENCY
                level["bytes_per_s"] *= constants.across
            else:
                for name in ("bytes_per_s", "pair_bytes_per_s", "switch_reduce_bytes_per_s"):
                    level[name] *= constants.inside
        return json.dumps(where)


def read_rows(path: Path) -> list[Row]:
    """The rows of a file with the columns of published_runs.csv."""
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        missing = {"id", "layers", "hidden", "gpu", "gpus", "dp", "group"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(
                f"{path} has no column {', '.join(sorted(missing))}: is it a file of published runs?"
            )
        return [Row(row) for row in reader]


def graph_of(d: decoder.Dimensions, cache: Path) -> str:
    """The recorded step of these dimensions, from the cache where it was recorded before."""
    made_by = f"{moai.__version__} {torch.__version__} ".encode() + Path(decoder.__file__).read_bytes()
    key = hashlib.sha256(made_by + json.dumps(asdict(d), sort_keys=True).encode()).hexdigest()[:24]
    path = cache / f"{key}.graph.gz"
    if path.exists():
        return gzip.decompress(path.read_bytes()).decode()
    graph = decoder.record(d)
    cache.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{id(graph)}")
    part.write_bytes(gzip.compress(graph.encode(), 3))
    part.replace(path)
    return graph


@dataclass
class Prediction:
    """What is predicted for a row; `parts` are seconds by what takes them (see `parts_of`).

    `peak_bytes` is what its framework held on the fullest GPU, which is more than a plan of ours does.
    """

    seconds: float
    peak_bytes: float
    recompute: str
    layout: str
    parts: dict[str, float] = field(default_factory=dict)


def parts_of(found: dict, networks: list[bool]) -> dict[str, float]:
    """Seconds of a device's step by what the constants scale, nothing overlapping.

    Messages are told apart by the slowest link that they use; `networks` says of the line of stages, and then of
    each axis of the mesh, whether that is one across hosts.
    """
    compute, time = found["breakdown"]["compute"], found["time"]
    messages = {"inside": 0.0, "across": 0.0}
    for message in found["breakdown"]["messages"]:
        messages[framework_messages.links_of(message, networks)] += message["seconds"]
    between, waits = time["between_stages_s"], time["exposed_between_stages_s"]
    others, others_wait = time["communicate_s"] - between, time["exposed_communication_s"] - waits
    return {
        "products": compute["products_s"],
        "attention": compute["attention_s"],
        "memory": compute["memory_s"],
        "overhead": compute["overhead_s"],
        "inside": messages["inside"] + compute["exchange_s"],
        "across": messages["across"],
        "between_inside": 0.0 if networks[0] else between,
        "between_across": between if networks[0] else 0.0,
        "must_wait": min(1.0, others_wait / others) if others > 0 else 1.0,
        "must_wait_between": min(1.0, waits / between) if between > 0 else 1.0,
    }


def axes_across(found: dict, cluster: str) -> list[bool]:
    """Of the line of stages and of each axis of the mesh, whether its groups reach across hosts."""
    inner = 1
    for level in json.loads(cluster)["levels"]:
        if level["name"] not in NETWORKS:
            inner *= level["size"]
    across, stride = [], 1
    for size in reversed([found["stages"], *found["mesh"]]):
        across.append(stride * size > inner)
        stride *= size
    return across[::-1]


def predict(row: Row, constants: Constants, cache: Path) -> list[Prediction]:
    """Plan the row's step with its layout pinned, for each way to recompute that it may have had.

    Raises `NotPredicted` with the reason.
    """
    d = row.dimensions()
    graph, cluster = graph_of(d, cache), row.cluster(constants)
    out = []
    for recompute in row.recomputes():
        try:
            found = _C.plan_step(graph, cluster, row.pins(recompute), "")
        except RuntimeError as error:
            raise NotPredicted(str(error).splitlines()[0]) from error
        best = found["candidates"][0]
        if not best["fits"]:
            raise NotPredicted(best["excess"].splitlines()[0] or "nothing fits")
        networks = axes_across(best, cluster)
        parts, seconds = parts_of(best, networks), best["step_time_s"]
        must_wait = parts["must_wait"]
        waits = must_wait * (parts["inside"] + parts["across"])
        more = framework_messages.of(row, best, networks, cluster, must_wait, constants.overlap)
        for links, change in more.items():
            parts[links] += change.seconds
            seconds += change.shown
            waits += change.shown
        parts["must_wait"] = min(1.0, max(0.0, waits) / max(1e-12, parts["inside"] + parts["across"]))
        peak = framework_memory.peak_bytes(d, row.memory_layout(recompute)) + constants.held * GIB
        out.append(Prediction(seconds, peak, recompute, best["layout"], parts))
    return out
