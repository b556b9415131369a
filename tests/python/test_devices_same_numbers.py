"""Six families of models, each on 1, 2, 3, 4 and 8 devices under more than 40 plans that all differ: plain PyTorch's numbers.

After three steps in fp64, losses, gradients and weights are equal within 1e-10; experts are held to what fp32 gives, since
eager's ``grouped_mm`` takes no fp64. What each plan splits is printed: ``pytest -rP`` shows it.

A sample in the quick tests, another one with each commit; all of them with ``make test-full``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import moai
import pytest
import torch
import torch.nn.functional as F
from moai.bench.gpt2 import GPT2Config
from moai.bench.llama import LlamaConfig
from sampling import is_chosen
from test_devices import Conv, Lstm, devices
from test_partition import Experts
from torch import nn

BATCH, LENGTH, VOCAB = 6, 8, 101
SHARE = 6  # of the pairs of family and count
ALWAYS = {("experts", 4)}  # whose parts lie as ``grouped_mm`` refuses them, unless they are padded
SEEDS = range(10)
PINNED = {
    1: [],
    2: ["dp=2", "tp=2", "dp=2,zero=2,micro=3", "dp=2,micro=3,recompute=full", "pp=2,micro=3"],
    3: ["dp=3,zero=3", "dp=3,zero=2,micro=2,recompute=full", "tp=3"],
    4: ["dp=2,tp=2", "pp=2,tp=2,micro=2", "pp=2,dp=2", "pp=2,dp=2,zero=2,micro=3"],
    8: ["dp=4,tp=2,zero=1", "dp=2,sp=2,tp=2"],
}

EXPERTS = {2: ["ep=2"], 3: ["ep=3"], 4: ["ep=2,dp=2", "ep=2,tp=2"], 8: ["ep=4,dp=2"]}


class EncoderDecoder(nn.Module):
    """One embedding for both sides and the head; the decoder attends to itself and to what the encoder made."""

    def __init__(self, width: int = 20, heads: int = 5) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, width)
        self.read = nn.MultiheadAttention(width, heads, batch_first=True)
        self.write = nn.MultiheadAttention(width, heads, batch_first=True)
        self.look = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        self.head = nn.Linear(width, VOCAB, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x, y = self.tokens(ids.flip(1)), self.tokens(ids)
        x = self.norms[0](x + self.read(x, x, x, need_weights=False)[0])
        future = nn.Transformer.generate_square_subsequent_mask(
            ids.shape[1], device=ids.device, dtype=y.dtype
        )
        y = self.norms[1](y + self.write(y, y, y, need_weights=False, attn_mask=future)[0])
        y = self.norms[2](y + self.look(y, x, x, need_weights=False)[0])
        return self.head(self.norms[3](y + self.down(F.relu(self.up(y)))))


def language_batch(step: int, batch: int = BATCH, vocab: int = VOCAB) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(100 + step)
    ids = torch.randint(vocab, (batch, LENGTH + 1))
    labels = ids[:, 1:].clone()
    labels[::2, 3:5] = -100
    return ids[:, :-1].contiguous(), labels


def rows_batch(*sizes: int, classes: int):
    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(100 + step)
        return torch.randn(*sizes, dtype=torch.float64), torch.randint(classes, (sizes[0],))

    return batch


GPT2 = GPT2Config(20, 2, 5, vocab=VOCAB, max_seq=LENGTH)
ODD = 50257
# What makes the model, and its batches.
FAMILIES = {
    "gpt2": (GPT2.build, language_batch),
    "llama": (
        LlamaConfig(24, 2, 6, kv_heads=2, hidden=40, vocab=VOCAB, max_seq=LENGTH).build,
        language_batch,
    ),
    "experts": (lambda: Experts(VOCAB).float(), language_batch),
    "conv": (Conv, rows_batch(BATCH, 3, 8, 8, classes=5)),
    "encoder_decoder": (EncoderDecoder, language_batch),
    "lstm": (Lstm, rows_batch(BATCH, 4, 5, classes=4)),
    "odd": (
        GPT2Config(20, 1, 5, vocab=ODD, max_seq=LENGTH).build,
        functools.partial(language_batch, batch=7, vocab=ODD),
    ),
}
COUNTS = (1, 2, 3, 4, 8)


def train(device: str, family: str) -> list[torch.Tensor]:
    """Losses of three steps, then gradients and weights."""
    make, batch_of = FAMILIES[family]
    torch.manual_seed(0)
    model = (make() if family == "experts" else make().double()).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-3)
    losses = []
    for step in range(3):
        inputs, labels = (t.to(device) for t in batch_of(step))
        optimizer.zero_grad()
        logits = model(inputs)
        loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
    gradients = [p.grad for p in model.parameters()]
    return [t.cpu() for t in losses + gradients + list(model.state_dict().values())]


@functools.cache
def on_the_cpu(family: str) -> list[torch.Tensor]:
    return train("cpu", family)


def assert_same(family: str, count: int, plan: str) -> None:
    with devices(count, plan):
        got = train("moai", family)
    tolerance = 2e-5 if family == "experts" else 1e-10
    for ours, theirs in zip(got, on_the_cpu(family), strict=True):
        torch.testing.assert_close(
            ours, theirs, rtol=tolerance, atol=tolerance, msg=lambda m: f"{family}, {count}, {plan}: {m}"
        )


@pytest.fixture
def compile_log(capfd) -> Iterator[Callable[[], list[str]]]:
    """What was said of programs since it was asked last."""
    moai._C.configure_log("compile")
    yield lambda: [line for line in capfd.readouterr().err.splitlines() if ": programs " in line]
    moai._C.configure_log("")


PAIRS = [(family, count) for family in FAMILIES for count in COUNTS]
CHOSEN = [pair for pair in PAIRS if pair in ALWAYS or is_chosen(pair, SHARE)]


@pytest.mark.parametrize(("family", "count"), CHOSEN)
def test_same_numbers(family: str, count: int, compile_log) -> None:
    on_the_cpu(family)
    plans = ["fastest", *PINNED[count], *(f"random:{seed}" for seed in SEEDS if count > 1)]
    plans += EXPERTS.get(count, []) if family == "experts" else []
    found = {}
    for plan in plans:
        assert_same(family, count, plan)
        lines = [line.split(": programs ")[1] for line in compile_log()]
        hashes, splits = zip(*(line.split(", split: ") for line in lines), strict=True) if lines else ((), ())
        found[hashes] = f"{family} on {count}, {plan}: {' | '.join(dict.fromkeys(splits))}"
    print("\n".join(found.values()))
    assert len(found) >= (10 if count > 1 else 1), f"{len(found)} of {len(plans)} plans are distinct"
