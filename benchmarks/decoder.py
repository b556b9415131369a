"""A language model of given dimensions, as frameworks for training build it, and a step of it as a graph.

Mixed precision: weights and gradients in 16 bits, AdamW on a copy in fp32. In fp8 the blocks' products alone are
of 8 bits, tables and the head stay bf16: fp16 stands for what goes with such products, so that a cluster can give
the two types rates of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import moai
import torch
from moai import _C
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Dimensions:
    """What a step of training looks like: the columns of a row of published runs that say it."""

    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: str  # "gated", "gelu" or "relu2"
    vocab: int  # 0: a head of two classes
    tied: bool
    experts: int  # 0: dense
    top_k: int
    seq: int
    batch: int
    dtype: str = "bf16"  # or "fp16", "fp8"
    parts: int = 1  # of the positions, each with experts' capacity of its own: context parallelism's


class Norm(nn.Module):
    """A norm as one op, as in the frameworks: RMSNorm costs what LayerNorm does."""

    def __init__(self, width: int, biased: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if biased else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias)


def activate(x: torch.Tensor, mlp: str) -> torch.Tensor:
    """Between the products of an MLP."""
    if mlp == "gated":
        gate, up = x.chunk(2, -1)
        return F.silu(gate) * up
    return F.gelu(x, approximate="tanh") if mlp == "gelu" else F.relu(x).square()


class Mlp(nn.Module):
    """Two products; of a gated one the first has both halves."""

    def __init__(self, d: Dimensions) -> None:
        super().__init__()
        self.kind = d.mlp
        bias = d.mlp == "gelu"
        self.up = nn.Linear(d.hidden, d.ffn * (2 if d.mlp == "gated" else 1), bias=bias)
        self.down = nn.Linear(d.ffn, d.hidden, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(activate(self.up(x), self.kind))


class Experts(nn.Module):
    """Each token goes to `top_k` experts, all of them as busy, as with a capacity of what they get on average.

    Which rows go where is not computed: the products, and moving the rows, cost the same wherever they go.
    """

    def __init__(self, d: Dimensions) -> None:
        super().__init__()
        self.kind, self.top_k, self.count, self.parts = d.mlp, d.top_k, d.experts, d.parts
        self.router = nn.Linear(d.hidden, d.experts, bias=False)
        width = d.ffn * (2 if d.mlp == "gated" else 1)
        self.up = nn.Parameter(torch.empty(d.experts, d.hidden, width))
        self.down = nn.Parameter(torch.empty(d.experts, d.ffn, d.hidden))
        for name in ("there", "back"):
            order = torch.zeros(d.seq // d.parts * d.top_k, dtype=torch.int32)
            self.register_buffer(name, order, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, seq, hidden = x.shape
        weights = self.router(x).float().softmax(-1).topk(self.top_k, -1).values.to(x.dtype)
        rows = x[:, :, None].expand(-1, -1, self.top_k, -1).reshape(batch, self.parts, -1, hidden)
        rows = rows.index_select(2, self.there).view(batch, self.parts, self.count, -1, hidden)
        rows = rows.permute(2, 0, 1, 3, 4).reshape(self.count, -1, hidden)
        out = torch._grouped_mm(activate(torch._grouped_mm(rows, self.up), self.kind), self.down)
        out = out.view(self.count, batch, self.parts, -1, hidden).permute(1, 2, 0, 3, 4)
        out = out.reshape(batch, self.parts, -1, hidden).index_select(2, self.back)
        out = out.reshape(batch, seq, self.top_k, hidden)
        return (out * weights[..., None]).sum(2)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions, of heads of x."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class Block(nn.Module):
    """Attention and an MLP, each behind a norm."""

    def __init__(self, d: Dimensions) -> None:
        super().__init__()
        self.d = d
        biased = d.mlp != "gated"
        self.norm1, self.norm2 = Norm(d.hidden, biased), Norm(d.hidden, biased)
        self.query = nn.Linear(d.hidden, d.heads * d.head_dim, bias=d.mlp == "gelu")
        self.key_value = nn.Linear(d.hidden, 2 * d.kv_heads * d.head_dim, bias=d.mlp == "gelu")
        self.out = nn.Linear(d.heads * d.head_dim, d.hidden, bias=d.mlp == "gelu")
        self.mlp = Experts(d) if d.experts else Mlp(d)

    def forward(self, x: torch.Tensor, positions: tuple | None) -> torch.Tensor:
        d = self.d
        batch, seq, _ = x.shape
        h = self.norm1(x)
        query = self.query(h).view(batch, seq, d.heads, d.head_dim).transpose(1, 2)
        key_value = self.key_value(h).view(batch, seq, 2, d.kv_heads, d.head_dim)
        key, value = (key_value[:, :, i].transpose(1, 2) for i in (0, 1))
        if positions is not None:
            query, key = rotate(query, *positions), rotate(key, *positions)
        mixed = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=d.kv_heads < d.heads
        )
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, seq, -1))
        return x + self.mlp(self.norm2(x))


class Decoder(nn.Module):
    """Embedding, blocks, and a head."""

    def __init__(self, d: Dimensions) -> None:
        super().__init__()
        self.d = d
        ends = {"dtype": torch.bfloat16} if d.dtype == "fp8" else {}
        self.embedding = nn.Embedding(d.vocab or 50257, d.hidden, **ends)
        self.positions = nn.Embedding(d.seq, d.hidden) if d.mlp == "gelu" else None
        if d.mlp != "gelu":
            for name in ("cos", "sin"):
                self.register_buffer(name, torch.zeros(d.seq, d.head_dim), persistent=False)
        self.blocks = nn.ModuleList(Block(d) for _ in range(d.layers))
        self.norm = Norm(d.hidden, d.mlp != "gated")
        self.head = nn.Linear(d.hidden, d.vocab or 2, bias=False, **ends)
        if d.tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens).to(self.norm.weight.dtype)
        angles = None
        if self.positions is not None:
            x = x + self.positions.weight
        else:
            angles = (self.cos, self.sin)
        for block in self.blocks:
            x = block(x, angles)
        return self.head(self.norm(x).to(self.head.weight.dtype))


class MasterAdamW(torch.optim.Optimizer):
    """AdamW on copies in fp32 of weights in 16 bits."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters, {})
        self.masters = [p.detach().float() for p in parameters]
        self.grads = [torch.zeros_like(p) for p in self.masters]
        self.first = [torch.zeros_like(p) for p in self.masters]
        self.second = [torch.zeros_like(p) for p in self.masters]
        self.steps = [torch.zeros((), device=p.device) for p in self.masters]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        parameters = self.param_groups[0]["params"]
        torch._foreach_copy_(self.grads, [p.grad for p in parameters])
        torch._fused_adamw_(
            self.masters, self.grads, self.first, self.second, [], self.steps, lr=1e-4, beta1=0.9, beta2=0.95,
            weight_decay=0.1, eps=1e-8, amsgrad=False, maximize=False,
        )  # fmt: skip
        torch._foreach_copy_(parameters, self.masters)


def record(d: Dimensions) -> str:
    """The graph of a step, as text; nothing is executed."""
    dtype = torch.bfloat16 if d.dtype == "bf16" else torch.float16
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with moai.dry_run():
            with torch.device("moai"):
                model = Decoder(d)
            optimizer = MasterAdamW(list(model.parameters()))
            tokens = torch.zeros(d.batch, d.seq, dtype=torch.long, device="moai")
            labels = torch.zeros((d.batch, d.seq) if d.vocab else (d.batch,), dtype=torch.long, device="moai")
            for _ in range(2):
                _C.set_dry(True)  # forgets what was recorded
                logits = model(tokens)
                if d.vocab:
                    loss = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
                else:
                    loss = F.cross_entropy(logits.float().mean(1), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            return _C.dry_step()
    finally:
        torch.set_default_dtype(default)
