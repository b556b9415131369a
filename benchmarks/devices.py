"""Several devices of ours beside torch's own ways to use several: the same model, the same batch, in turn.

python benchmarks/devices.py             # all rows, some minutes on an idle machine
python benchmarks/devices.py ddp fsdp    # some

Each side runs in processes of its own and takes a block of steps when it is its turn; seconds are of finished steps,
CPU-seconds those of all its processes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from common import Figure, ratio, write

ROUNDS, STEPS, WARMUP = 7, 4, 4
BATCH, SEQ = 8, 128
SMALL = {"dim": 256, "layers": 6, "heads": 8, "vocab": 512, "max_seq": SEQ}
MICRO_BATCHES = 4  # of a pipeline


# --- A side's process -----------------------------------------------------------------------------


def build(model: str):
    import torch
    from moai.bench.gpt2 import GPT2Config
    from moai.bench.llama import LlamaConfig

    torch.manual_seed(0)
    if model == "gpt2":
        return GPT2Config(**SMALL).build()
    return LlamaConfig(**SMALL, kv_heads=4, hidden=3 * SMALL["dim"]).build()


def tokens_of(step: int, rank: int = 0, ranks: int = 1):
    import torch

    torch.manual_seed(step)
    tokens = torch.randint(0, SMALL["vocab"], (BATCH, SEQ + 1))
    return tokens.chunk(ranks)[rank]


def loss_of(logits, targets):
    import torch.nn.functional as F

    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def optimizer_of(model, fused: bool):
    import torch

    return torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused or None)


def stepper(model, device: str, rank: int = 0, ranks: int = 1, fused: bool = True):
    """Return a function that takes one step and returns its loss, not read yet."""
    optimizer = optimizer_of(model, fused)
    count = 0

    def step():
        nonlocal count
        tokens = tokens_of(count, rank, ranks).to(device)
        count += 1
        loss = loss_of(model(tokens[:, :-1]), tokens[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def tensor_parallel(model, mesh):
    """As torch's tutorial shards a Llama: heads and features; norms and embedding whole."""
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    columns, rows = ColwiseParallel(), RowwiseParallel()
    for layer in model.model.layers:
        parallelize_module(
            layer,
            mesh,
            {
                "self_attn.q_proj": columns,
                "self_attn.k_proj": columns,
                "self_attn.v_proj": columns,
                "self_attn.o_proj": rows,
                "mlp.gate_proj": columns,
                "mlp.up_proj": columns,
                "mlp.down_proj": rows,
            },
        )
    return model


def pipeline_stepper(model, rank: int, ranks: int):
    """One stage of torch.distributed.pipelining, in the order of 1F1B; the last one knows the loss."""
    import torch
    from torch import nn
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B

    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            decoder, layers = model.model, list(model.model.layers)
            each = len(layers) // ranks
            self.layers = nn.ModuleList(layers[rank * each : (rank + 1) * each])
            self.first = decoder.embed_tokens if rank == 0 else nn.Identity()
            self.last = nn.Sequential(decoder.norm, model.lm_head) if rank == ranks - 1 else nn.Identity()
            self.cos, self.sin = decoder.cos[:SEQ], decoder.sin[:SEQ]

        def forward(self, x):
            x = self.first(x)
            for layer in self.layers:
                x = layer(x, self.cos, self.sin)
            return self.last(x)

    module = Stage()
    stage = PipelineStage(module, rank, ranks, torch.device("cpu"))
    schedule = Schedule1F1B(stage, MICRO_BATCHES, loss_fn=loss_of)
    optimizer = optimizer_of(module, fused=True)
    count = 0

    def step():
        nonlocal count
        tokens = tokens_of(count)
        count += 1
        losses: list = []
        optimizer.zero_grad()
        if rank == 0:
            schedule.step(tokens[:, :-1].contiguous())
        else:
            schedule.step(target=tokens[:, 1:], losses=losses)
        optimizer.step()
        return torch.stack(losses).mean().detach() if losses else torch.tensor(float("nan"))

    return step


def torch_side(kind: str, rank: int, ranks: int, port: str):
    import torch
    import torch.distributed as dist

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, RANK=str(rank), WORLD_SIZE=str(ranks))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks))
    model = build("llama" if kind in ("tensor", "pipeline") else "gpt2")
    if ranks == 1:
        return stepper(model, "cpu")
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    if kind == "ddp":
        return stepper(torch.nn.parallel.DistributedDataParallel(model), "cpu", rank, ranks)
    if kind == "pipeline":
        return pipeline_stepper(model, rank, ranks)
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (ranks,))
    if kind == "tensor":
        return stepper(tensor_parallel(model, mesh), "cpu", fused=False)
    if kind == "fsdp":
        from torch.distributed.fsdp import fully_shard

        for module in model.modules():
            if type(module).__name__ == "Block":
                fully_shard(module, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return stepper(model, "cpu", rank, ranks, fused=False)
    raise SystemExit(f"no side is called {kind}")


def serve(kind: str, rank: int, ranks: int, port: str) -> None:
    """Take a block of steps for each line of standard input, and answer with seconds, CPU-seconds and the loss."""
    if kind.startswith("moai:"):
        import moai
        import torch

        _, devices, model, plan = kind.split(":", 3)
        moai.configure(devices=f"cpu:{devices}", plan=plan)
        torch.set_num_threads(os.cpu_count() or 1)
        step = stepper(build(model).to("moai"), "moai")
        drain = moai.sync
    else:
        step = torch_side(kind, rank, ranks, port)

        def drain() -> None:
            pass

    for line in sys.stdin:
        cpu, begin = time.process_time(), time.perf_counter()
        for _ in range(int(line)):
            loss = step()
        loss = loss.item()
        drain()
        print(json.dumps([time.perf_counter() - begin, time.process_time() - cpu, loss]), flush=True)


# --- The runs -------------------------------------------------------------------------------------


class Side:
    """The processes of one contender."""

    def __init__(self, kind: str, ranks: int = 1) -> None:
        port = str(20000 + (os.getpid() * 7 + hash(kind)) % 20000)
        env = os.environ | {"PYTHONPATH": str(Path(__file__).parent) + ":" + os.environ.get("PYTHONPATH", "")}
        self.processes = [
            subprocess.Popen(
                [sys.executable, __file__, "serve", kind, str(rank), str(ranks), port],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=env,
            )
            for rank in range(ranks)
        ]

    def block(self, steps: int) -> tuple[float, float, float]:
        """Return wall seconds, CPU-seconds and the last loss (of the first process's share)."""
        for process in self.processes:
            process.stdin.write(f"{steps}\n")
            process.stdin.flush()
        answers = [json.loads(process.stdout.readline()) for process in self.processes]
        losses = [a[2] for a in answers if a[2] == a[2]]  # not every stage knows it
        return max(a[0] for a in answers), sum(a[1] for a in answers), sum(losses) / len(losses)

    def close(self) -> None:
        for process in self.processes:
            process.stdin.close()
            process.wait(timeout=60)


def compare(name: str, ours: str, theirs: str, ranks: int, bound: float) -> Figure:
    sides = {"moai": Side(ours), "torch": Side(theirs, ranks)}
    losses = {side: contender.block(WARMUP)[2] for side, contender in sides.items()}
    taken: dict[str, list] = {side: [] for side in sides}
    for number in range(ROUNDS):
        order = list(sides) if number % 2 else list(sides)[::-1]
        for side in order:
            wall, cpu, losses[side] = sides[side].block(STEPS)
            taken[side].append((wall / STEPS, cpu / STEPS))
    for contender in sides.values():
        contender.close()
    gap = abs(losses["moai"] - losses["torch"])
    assert gap < 1e-3, f"the losses differ by {gap}: {losses}"
    return ratio(name, taken, "moai", "torch", bound, "higher", steps=ROUNDS * STEPS, loss_difference=gap)


ROWS = {
    "four": ("4 virtual devices, planner's choice, against eager with all cores", "moai:4:gpt2:fastest", "eager", 1, 0.85),
    "two": ("2 virtual devices, planner's choice, against eager with all cores", "moai:2:gpt2:fastest", "eager", 1, 0.97),
    "ddp": ("data parallel on 2 devices against DistributedDataParallel", "moai:2:gpt2:dp=2,zero=0", "ddp", 2, 1.0),
    "fsdp": ("sharded states on 2 devices against FSDP2", "moai:2:gpt2:dp=2,zero=3", "fsdp", 2, 1.2),
    "tensor": ("tensor parallel on 2 devices against torch's DTensor", "moai:2:llama:tp=2", "tensor", 2, 1.15),
    "pipeline": ("two stages against torch.distributed.pipelining", f"moai:2:llama:pp=2,micro={MICRO_BATCHES},order=1f1b", "pipeline", 2, 1.2),
}  # fmt: skip


def main(names: list[str]) -> None:
    write("devices", [compare(*ROWS[name]) for name in names or ROWS])


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
    else:
        main(sys.argv[1:])
