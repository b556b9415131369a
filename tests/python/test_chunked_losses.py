"""A head and its loss in chunks of tokens (csrc/compile/chunk): the CPU's numbers, in less memory."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator

import moai
import pytest
import torch
import torch.nn.functional as F
from test_devices import Gpt

TOKENS, HIDDEN, WORDS = 29, 12, 53
F64, F32, F16, BF16 = torch.float64, torch.float32, torch.float16, torch.bfloat16
TOLERANCE = {F64: 1e-10, F32: 1e-5, F16: 4e-3, BF16: 3e-2}


@contextlib.contextmanager
def chunked(chunk: str, devices: str = "cpu", plan: str = "fastest") -> Iterator[None]:
    moai.configure(devices=devices, plan=plan, chunk=chunk)
    try:
        yield
    finally:
        moai.configure(devices="cpu", plan="fastest", chunk="256MiB")


def rows_of(op: str, words: int = WORDS) -> list[int]:
    """How many rows each result of such an op has, in the last program."""
    return [int(rows) for rows in re.findall(rf"b\d+:\w+\[(\d+),{words}\] = {re.escape(op)}\(", moai.dump())]


def most_rows() -> int:
    """How many rows of a number for each word the last program has in one result, at most."""
    found = re.findall(rf"b\d+:\w+\[([\d,]+),{WORDS}\]\S* = ", moai.dump())
    return max(math.prod(map(int, rows.split(","))) for rows in found)


Loss = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor
]  # of logits, targets, a weight of each word


class Head(torch.nn.Module):
    def __init__(self, dtype: torch.dtype, bias: bool, tokens: int = TOKENS) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)

        def drawn(*sizes: int) -> torch.nn.Parameter:
            return torch.nn.Parameter(torch.randn(*sizes, dtype=F64, generator=generator).to(dtype))

        self.hidden, self.weight = drawn(tokens, HIDDEN), drawn(WORDS, HIDDEN)
        self.bias = drawn(WORDS) if bias else None
        self.targets = torch.randint(WORDS, (tokens,), generator=generator)
        self.targets[::5] = -100
        self.weights = torch.rand(WORDS, dtype=F64, generator=generator).to(dtype)


def gradients(
    device: str,
    loss: Loss,
    dtype: torch.dtype = F64,
    bias: bool = False,
    keeps: list | None = None,
    tokens: int = TOKENS,
) -> list[torch.Tensor]:
    """The loss and the gradients; `keeps` takes the logits. They are of two steps, the second by a program with an arena."""
    head = Head(dtype, bias, tokens)
    targets, weights = head.targets.to(device), head.weights.to(device)
    head = head.to(device)
    for _ in range(2):
        head.zero_grad()
        logits = F.linear(head.hidden, head.weight, head.bias)
        value = loss(logits, targets, weights)
        value.sum().backward()
        if keeps is not None:
            keeps[:] = [logits.detach()]
        del logits
        if device == "moai":
            moai.sync()
    return [value.detach().cpu(), *(p.grad.cpu() for p in head.parameters())]


def check(
    loss: Loss,
    dtype: torch.dtype = F64,
    bias: bool = False,
    *,
    chunk: int = 7,
    itemsize: int = 0,
    keeps: bool = False,
    tolerance: float = 0,
) -> None:
    """In chunks of so many rows at most the numbers are the CPU's. `itemsize`: of the log-probabilities, where not `dtype`'s."""
    wanted_kept: list[torch.Tensor] = []
    kept: list[torch.Tensor] = []
    want = gradients("cpu", loss, dtype, bias, wanted_kept if keeps else None)
    with chunked(str(chunk * WORDS * max(dtype.itemsize, itemsize))):
        got = gradients("moai", loss, dtype, bias, kept if keeps else None)
        rows = rows_of("aten._log_softmax")
        assert sum(rows) == TOKENS
        assert len(rows) == -(-TOKENS // chunk)
        assert max(rows) <= chunk
        for one, wanted in zip(got + kept, want + wanted_kept, strict=True):
            tolerance = tolerance or TOLERANCE[dtype]
            torch.testing.assert_close(one.cpu(), wanted, rtol=tolerance, atol=tolerance, equal_nan=True)


LOSSES: dict[str, Loss] = {
    "mean": lambda x, y, w: F.cross_entropy(x, y),
    "sum": lambda x, y, w: F.cross_entropy(x, y, reduction="sum"),
    "none": lambda x, y, w: F.cross_entropy(x, y, reduction="none") * torch.arange(TOKENS, device=x.device),
    "weights": lambda x, y, w: F.cross_entropy(x, y, w),
    "weights_sum": lambda x, y, w: F.cross_entropy(x, y, w, reduction="sum"),
    "ignored": lambda x, y, w: F.cross_entropy(x, y.clamp_min(0), ignore_index=7),
    "none_counts": lambda x, y, w: F.cross_entropy(x, torch.full_like(y, -100)),
    "smoothing": lambda x, y, w: F.cross_entropy(x, y, label_smoothing=0.1),
    "smoothing_sum": lambda x, y, w: F.cross_entropy(x, y, label_smoothing=0.1, reduction="sum"),
    "scaled": lambda x, y, w: F.cross_entropy(x, y) * 1024 / 3,
    "capped": lambda x, y, w: F.cross_entropy(30 * torch.tanh(x / 30), y),
    "shaped": lambda x, y, w: F.cross_entropy(x.view(1, TOKENS, WORDS).float().flatten(0, 1).to(x.dtype), y),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name: str) -> None:
    check(LOSSES[name])


@pytest.mark.parametrize("chunk", [1, 2, 10, 28])
@pytest.mark.parametrize("bias", [False, True])
def test_chunks_that_do_not_divide_the_tokens(chunk: int, bias: bool) -> None:
    check(LOSSES["mean"], bias=bias, chunk=chunk)


@pytest.mark.parametrize("dtype", [F32, F16, BF16])
@pytest.mark.parametrize("bias", [False, True])
def test_dtypes(dtype: torch.dtype, bias: bool) -> None:
    check(LOSSES["mean"], dtype, bias)
    check(lambda x, y, w: F.cross_entropy(x.float(), y), dtype, bias, itemsize=4)


@pytest.mark.parametrize("kind", ["apart", "fused"])
def test_a_device_of_its_own(kind: str) -> None:
    """As a GPU is one (kernels/cpu/apart.h), with fused kernels within chunks."""
    want = gradients("cpu", LOSSES["capped"], F32, bias=True)
    try:
        moai.sync()
        moai._C.shut_down()
        moai._C.configure_devices(kind, 1, (), -1, "", chunk_bytes=7 * WORDS * 4)
        got = gradients("moai", LOSSES["capped"], F32, bias=True)
        assert moai.stats()["devices"][0]["name"].startswith("apart")
        assert most_rows() <= 7
        assert ("moai.fused" in moai.dump()) == (kind == "fused")
    finally:
        moai.configure(devices="cpu", plan="fastest")
    for one, wanted in zip(got, want, strict=True):
        torch.testing.assert_close(one, wanted, rtol=1e-5, atol=1e-5)


def test_autocast() -> None:
    """Parameters and their gradients in f32, products in bf16."""

    def loss(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(x.float(), y)

    with torch.autocast("cpu", BF16), torch.autocast("moai", BF16):
        check(loss, F32, bias=True, tolerance=TOLERANCE[BF16])
        check(loss, F32, chunk=3, tolerance=TOLERANCE[BF16])


def test_logits_that_the_script_keeps() -> None:
    check(LOSSES["mean"], keeps=True)
    check(lambda x, y, w: F.cross_entropy(x.float(), y), BF16, itemsize=4, keeps=True)


READ_BESIDES: dict[str, Loss] = {
    "logits": lambda x, y, w: F.cross_entropy(x, y) + x.square().mean(0).sum(),
    "argmax": lambda x, y, w: F.cross_entropy(x, y) + (x.argmax(1) == y).double().mean(),
    "log_probabilities": lambda x, y, w: F.nll_loss(p := x.log_softmax(1), y) + p.exp().cumsum(0).mean(),
    "entropy": lambda x, y, w: F.nll_loss(p := x.log_softmax(1), y) - (p.exp() * p).sum(1).mean(),
    "both_ways": lambda x, y, w: (
        F.cross_entropy(x, y) + F.cross_entropy(x.t(), torch.arange(WORDS, device=x.device) % TOKENS)
    ),
    "twice": lambda x, y, w: F.cross_entropy(x, y) + F.cross_entropy(2 * x, y.clamp_min(0)),
    "squared": lambda x, y, w: F.cross_entropy(x, y).square(),
}


@pytest.mark.parametrize("name", READ_BESIDES)
def test_what_others_read_besides_is_right(name: str) -> None:
    """Whether a loss can go in chunks then or not."""
    loss = READ_BESIDES[name]
    want = gradients("cpu", loss)
    with chunked(str(7 * WORDS * 8)):
        for one, wanted in zip(gradients("moai", loss), want, strict=True):
            torch.testing.assert_close(one, wanted, rtol=1e-10, atol=1e-10)


def test_a_program_has_chunks_in_the_place_of_logits() -> None:
    tokens, hidden, words = 256, 16, 2048
    wide = tokens * words * 4

    def arena_bytes(keeps: bool = False) -> int:
        """Of a step on a head and what comes before it."""
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(hidden, hidden), torch.nn.Linear(hidden, words)).to(
            "moai"
        )
        inputs, targets = torch.randn(tokens, hidden).to("moai"), torch.randint(words, (tokens,)).to("moai")
        for _ in range(3):
            logits = model(inputs)
            loss = F.cross_entropy(logits, targets)
            loss.backward()
            if not keeps:
                del logits
            moai.sync()
        return int(re.search(r"program arena=(\d+) bytes", moai.dump())[1])

    chunk = wide // 16
    with chunked("off"):
        whole = arena_bytes()
    with chunked(str(chunk)):
        in_chunks, keeping = arena_bytes(), arena_bytes(keeps=True)
    # Log-probabilities and a gradient or two, and the gradient of the weight.
    assert whole >= 2 * wide
    assert in_chunks <= 3 * chunk + 2 * words * hidden * 4
    assert keeping <= in_chunks + chunk


def test_evaluation_and_wrong_targets() -> None:
    def perplexity(device: str, word: int) -> float:
        head = Head(F64, bias=True)
        head.targets[3] = word
        head = head.to(device)
        with torch.no_grad():
            loss = F.cross_entropy(F.linear(head.hidden, head.weight, head.bias), head.targets.to(device))
        return loss.exp().item()

    with chunked("4KiB"):
        assert perplexity("moai", 3) == pytest.approx(perplexity("cpu", 3), rel=1e-10)
        assert len(rows_of("aten._log_softmax")) > 1
        with pytest.raises(IndexError, match="Target 53 is out of bounds"):
            perplexity("moai", WORDS)


def test_wrong_targets_of_a_loss_that_is_not_read() -> None:
    with chunked("4KiB"):
        head = Head(F64, bias=False).to("moai")
        targets = torch.full((TOKENS,), WORDS).to("moai")
        F.cross_entropy(F.linear(head.hidden, head.weight), targets).backward()
        with pytest.raises(IndexError, match="Target 53 is out of bounds"):
            moai.sync()


@pytest.mark.parametrize("accumulate", [1, 3])
def test_training(accumulate: int) -> None:
    """Losses of several micro-batches in one step are each in chunks."""

    def trained(device: str) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Embedding(WORDS, HIDDEN), torch.nn.Linear(HIDDEN, WORDS, bias=False)
        )
        model[1].weight = model[0].weight
        model = model.double().to(device)
        optimizer = torch.optim.AdamW(model.parameters())
        losses = []
        for step in range(4):
            optimizer.zero_grad()
            for turn in range(accumulate):
                generator = torch.Generator().manual_seed(10 * step + turn)
                ids = torch.randint(WORDS, (2, 9), generator=generator).to(device)
                logits = model(ids[:, :-1])
                loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()) / accumulate
                loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return [*losses, *(p.detach() for p in model.parameters())]

    with chunked(str(5 * WORDS * 8)):
        for got, want in zip(trained("moai"), trained("cpu"), strict=True):
            torch.testing.assert_close(got.cpu(), want, rtol=1e-10, atol=1e-10)
        moai.sync()
        assert rows_of("aten._log_softmax") == accumulate * [4, 4, 4, 4]


SHIFTS: dict[
    str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
] = {  # of logits (3, 8, WORDS) and targets (3, 8)
    "logits": lambda x, y: F.cross_entropy(x[:, :-1].contiguous().view(-1, WORDS), y[:, 1:].reshape(-1)),
    "logits_flattened": lambda x, y: F.cross_entropy(x[..., :-1, :].flatten(0, 1), y[..., 1:].flatten()),
    "cast_then_logits": lambda x, y: F.cross_entropy(x.double()[:, :-1].flatten(0, 1), y[:, 1:].flatten()),
    "logits_then_cast": lambda x, y: F.cross_entropy(x[:, :-1].double().flatten(0, 1), y[:, 1:].flatten()),
    "stepped": lambda x, y: F.cross_entropy(x[1:, 1::2].reshape(-1, WORDS), y[1:, 1::2].reshape(-1)),
    "labels": lambda x, y: F.cross_entropy(x.flatten(0, 1), F.pad(y, (0, 1), value=-100)[..., 1:].flatten()),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", SHIFTS)
def test_shifted_labels(name: str, bias: bool) -> None:
    def loss(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return SHIFTS[name](x.view(3, 8, WORDS), y.view(3, 8))

    for dtype in (F64, F32):
        want = gradients("cpu", loss, dtype, bias, tokens=24)
        with chunked(str(5 * WORDS * dtype.itemsize)):
            got = gradients("moai", loss, dtype, bias, tokens=24)
            assert most_rows() <= 5
            for one, wanted in zip(got, want, strict=True):
                torch.testing.assert_close(one, wanted, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_a_window_that_moves() -> None:
    """Of its tokens alone there is a program for the first place where it is, and one of all for all others."""

    def seen(device: str) -> list[float]:
        head = Head(F64, bias=False, tokens=24)
        targets = head.targets.view(3, 8).to(device)
        head = head.to(device)
        found = []
        with torch.no_grad():
            for start in (0, 0, 0, 2, 1, 0, 3, 4):
                logits = F.linear(head.hidden, head.weight).view(3, 8, WORDS).narrow(1, start, 4)
                loss = F.cross_entropy(logits.reshape(-1, WORDS), targets.narrow(1, start, 4).reshape(-1))
                del logits
                found.append(loss.item())
        return found

    with chunked(str(5 * WORDS * 8)):
        moai.reset_stats()
        assert seen("moai") == pytest.approx(seen("cpu"), rel=1e-10)
        assert moai.stats()["compiles"] + moai.stats()["resizes"] == 2


DEVICE_WORDS, LENGTH = 512, 16
PLANS = [
    "dp=2,zero=0",
    "dp=2,zero=1",
    "dp=2,zero=3",
    "dp=2,micro=2",
    "dp=2,micro=2,zero=2",
    "pp=2,micro=2",
    "tp=2",
]
RANDOM_PLANS = [f"random:{seed}" for seed in range(6)]


def trained_on(device: str, batch: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = Gpt(DEVICE_WORDS, 16, 2, 2, LENGTH).double().to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    losses = []
    for step in range(3):
        ids = torch.randint(DEVICE_WORDS, (batch, LENGTH + 1), generator=torch.Generator().manual_seed(step))
        inputs, targets = ids[:, :-1].to(device), ids[:, 1:].clone()
        targets[0, 2:5] = -100
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.to(device).flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return [*(loss.cpu() for loss in losses), *(p.detach().cpu() for p in model.parameters())]


@pytest.mark.parametrize("batch", [4, 5])
@pytest.mark.parametrize("plan", PLANS + RANDOM_PLANS)
def test_devices(plan: str, batch: int) -> None:
    """Each goes over its own tokens, in each turn; where the words are split over devices, in one piece."""
    want = trained_on("cpu", batch)
    with chunked(str(6 * DEVICE_WORDS * 8), "cpu:2", plan):
        moai.reset_stats()
        got = trained_on("moai", batch)
        moai.sync()
        if plan not in RANDOM_PLANS:
            assert (moai.stats()["losses_in_chunks"] > 0) == (plan != "tp=2")
        if plan.startswith("dp"):
            assert max(rows_of("aten._log_softmax", DEVICE_WORDS)) <= 6
        for one, wanted in zip(got, want, strict=True):
            torch.testing.assert_close(one, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("plan", ["dp=2,zero=0", "dp=2,micro=2"])
def test_devices_hold_what_was_said(plan: str) -> None:
    """The programs' bytes are those of chunks, and so are what `moai.explain` says and what the devices hold."""
    words, tokens = 4096, 16

    def peaks(chunk: str) -> tuple[float, float]:
        with chunked(chunk, "cpu:2", plan):
            torch.manual_seed(0)
            model = Gpt(words, 16, 2, 2, tokens).to("moai")
            optimizer = torch.optim.AdamW(model.parameters(), fused=True)
            inputs, targets = (t.to("moai") for t in torch.randint(words, (2, 16, tokens)))
            for step in range(8):
                if step == 4:
                    moai.sync()
                    torch.moai.reset_peak_memory_stats()
                optimizer.zero_grad()
                F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).backward()
                optimizer.step()
            moai.sync()
            return moai._C.explained()["peak_bytes"], max(d["peak_bytes"] for d in moai.stats()["devices"])

    said, held = peaks("128KiB")
    assert held == pytest.approx(said, rel=0.03)
    assert held < peaks("off")[1] / 1.5
