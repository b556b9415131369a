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


# --- A side's process -----------------------------------------------------------------------------


def build(device: str):
    import torch
    from moai.bench.gpt2 import GPT2Config

    torch.manual_seed(0)
    return GPT2Config(**SMALL).build().to(device)


def tokens_of(step: int, rank: int = 0, ranks: int = 1):
    import torch

    torch.manual_seed(step)
    tokens = torch.randint(0, SMALL["vocab"], (BATCH, SEQ + 1))
    return tokens.chunk(ranks)[rank]


def stepper(model, device: str, rank: int = 0, ranks: int = 1):
    """Return a function that takes one step and returns its loss, not read yet."""
    import torch
    import torch.nn.functional as F

    # Plain tensors have a fused AdamW on the CPU; DTensors on Gloo take the other.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=ranks == 1 or None)
    count = 0

    def step():
        nonlocal count
        tokens = tokens_of(count, rank, ranks).to(device)
        count += 1
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def torch_side(kind: str, rank: int, ranks: int, port: str):
    import torch
    import torch.distributed as dist

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, RANK=str(rank), WORLD_SIZE=str(ranks))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks))
    model = build("cpu")
    if ranks == 1:
        return stepper(model, "cpu")
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    if kind == "ddp":
        return stepper(torch.nn.parallel.DistributedDataParallel(model), "cpu", rank, ranks)
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (ranks,))
    if kind == "fsdp":
        from torch.distributed.fsdp import fully_shard

        for module in model.modules():
            if type(module).__name__ == "Block":
                fully_shard(module, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return stepper(model, "cpu", rank, ranks)
    raise SystemExit(f"no side is called {kind}")


def serve(kind: str, rank: int, ranks: int, port: str) -> None:
    """Take a block of steps for each line of standard input, and answer with seconds, CPU-seconds and the loss."""
    if kind.startswith("moai:"):
        import moai
        import torch

        _, devices, plan = kind.split(":", 2)
        moai.configure(devices=f"cpu:{devices}", plan=plan)
        torch.set_num_threads(os.cpu_count() or 1)
        step = stepper(build("moai"), "moai")
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
        losses = [a[2] for a in answers]
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
    "four": ("4 virtual devices, planner's choice, against eager with all cores", "moai:4:fastest", "eager", 1, 0.85),
    "two": ("2 virtual devices, planner's choice, against eager with all cores", "moai:2:fastest", "eager", 1, 0.97),
    "ddp": ("data parallel on 2 devices against DistributedDataParallel", "moai:2:dp=2,zero=0", "ddp", 2, 1.0),
    "fsdp": ("sharded states on 2 devices against FSDP2", "moai:2:dp=2,zero=3", "fsdp", 2, 1.2),
}  # fmt: skip


def main(names: list[str]) -> None:
    write("devices", [compare(*ROWS[name]) for name in names or ROWS])


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
    else:
        main(sys.argv[1:])
