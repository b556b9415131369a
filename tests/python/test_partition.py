"""Local graphs against whole ones, in fp64: every op under every split, and whole training steps under many plans."""

from __future__ import annotations

from collections import Counter

import device_graphs
import local_graphs
import moai
import pytest
import torch
import torch.nn.functional as F
from moai import _C
from rule_arguments import GROUPED, A, I, T, ends
from rule_cases import ROWS
from test_rules import Call, ir_name
from torch import nn

MESHES = {2: [[2]], 3: [[3]], 4: [[4], [2, 2]], 8: [[4, 2]]}
DEVICES = [2, 3, pytest.param(4, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)]


# --- Every op -------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", range(len(ROWS)), ids=lambda i: f"{i}-{ir_name(ROWS[i][0])}")
def test_parts_of_an_op_make_the_whole(row: int) -> None:
    torch.manual_seed(row)
    op, make = ROWS[row]
    call = Call(op, make())
    text = call.text()
    whole = local_graphs.run_graph(text, call.operands, call.numbers)
    used: set[str] = set()
    for mesh in ([2], [3], [4], [2, 2], [2, 3]):
        for counts, plan in _C.local_graphs_of_options(text, mesh):
            used.update(counts)
            try:
                device_graphs.check(plan, whole, call.operands, call.numbers)
            except Exception as error:
                raise AssertionError(f"{op} on {mesh}, split by {counts}: {plan['graphs'][-1]}") from error
    if all(t.numel() for t in call.results):  # of nothing there are no parts
        factors = {f["name"] for f in call.rule["factors"] if f["splittable"] and f["size"] >= 2}
        assert {f"{call.rule['op']} {name}" for name in factors} <= used, "factors that no plan splits"


def nll(classes: int, *sizes: int) -> tuple:
    """Summed: a mean's classes lie whole."""
    return T(sizes[0], classes, *sizes[1:]), I(classes, *sizes), None, 2, -100


LOOKUPS = {  # where operand 1 looks, in so many rows of which factor
    "embedding": (A.embedding.default, lambda: (T(9, 6), I(9, 3, 5)), 9, "v"),
    "index_select": (
        A.index_select.default,
        lambda: (T(5, 9), 1, I(9, 4)),
        9,
        "v",
    ),
    "index": (A.index.Tensor, lambda: (T(5, 9, 2), [None, I(9, 2, 4)]), 9, "v"),
    "nll_loss": (A.nll_loss_forward.default, lambda: nll(9, 5), 9, "c"),
    "nll_loss2d": (A.nll_loss2d_forward.default, lambda: nll(9, 3, 4, 2), 9, "c"),
}


@pytest.mark.parametrize("below", [False, True])
@pytest.mark.parametrize("name", LOOKUPS)
def test_parts_of_a_lookup_refuse_what_no_part_has(name: str, below: bool) -> None:
    """Every device that sees the index, in torch's words; the others have nothing to do with it."""
    torch.manual_seed(0)
    op, make, rows, factor = LOOKUPS[name]
    call = Call(op, make())
    wrong = call.operands[1].clone()
    wrong.view(-1)[2] = -rows - 1 if below else rows
    operands = [call.operands[0], wrong]
    with pytest.raises((IndexError, RuntimeError)) as eager:
        call.run(call.with_operands(operands))
    split = 0
    for mesh in ([2], [3], [2, 2]):
        for counts, plan in _C.local_graphs_of_options(call.text(), mesh):
            with pytest.raises(eager.type) as ours:
                device_graphs.run_devices(plan, operands, call.numbers)
            assert str(ours.value) == str(eager.value), plan["graphs"][-1]
            split += f"{ir_name(op)} {factor}" in counts
    assert split >= 3


GROUPED_CASES = {
    "rows": lambda: (rand32(9, 8), rand32(5, 8, 12), ends(1, 3, 3, 6, 9)),
    "rows, weights turned": lambda: (
        rand32(9, 8),
        rand32(5, 12, 8).transpose(1, 2),
        ends(0, 3, 3, 5, 9),
    ),
    "columns": lambda: (rand32(5, 4, 8), rand32(12, 8).t(), ends(0, 2, 4, 6, 12)),
    "sums": lambda: (rand32(9, 8).t(), rand32(9, 12), ends(1, 2, 2, 6, 8)),
    "neither": lambda: (rand32(5, 4, 8), rand32(5, 8, 12)),
}


def rand32(*sizes: int) -> torch.Tensor:
    return torch.randn(sizes, dtype=torch.float32)


@pytest.mark.parametrize("name", GROUPED_CASES)
def test_torchs_grouped_product_takes_the_parts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernel wants rows of 16 bytes, which a part's need not be, and starts at the first row."""
    torch.manual_seed(0)
    call = Call(GROUPED, GROUPED_CASES[name]())
    text = call.text()
    (whole,) = local_graphs.run_graph(text, call.operands, call.numbers)
    monkeypatch.delitem(local_graphs.REFERENCES, "aten._grouped_mm")
    splits: Counter[str] = Counter()
    for mesh in ([2], [3], [2, 2]):
        for counts, plan in _C.local_graphs_of_options(text, mesh):
            splits.update(counts)
            outputs = [one for (one,) in device_graphs.run_devices(plan, call.operands, call.numbers)]
            got = device_graphs.joined(outputs, plan["outputs"][0], whole)
            torch.testing.assert_close(got, whole)
    assert len(splits) >= 4, splits


# --- Whole steps ----------------------------------------------------------------------------------


def recorded(make, loss, optimizer=None) -> tuple[str, list]:
    """The graph of a training step in fp64 (recorded, not run), and its numbers."""
    torch.manual_seed(0)
    with moai.dry_run():
        with torch.device("moai"):
            model = make().double()
        optimizer = (optimizer or (lambda p: torch.optim.AdamW(p, lr=1e-3)))(model.parameters())
        for _ in range(2):
            _C.set_dry(True)  # forgets what was recorded, the model's initialisation above all
            optimizer.zero_grad()
            loss(model).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        return _C.dry_step(), _C.dry_numbers()


class Block(nn.Module):
    """A GPT-2 block: layer norm, fused query-key-value, causal attention, a feed-forward net."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, nn.Dropout(dropout)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, s, w = x.shape
        q, k, v = (
            t.view(b, s, self.heads, w // self.heads).transpose(1, 2)
            for t in self.attend(self.norm1(x)).split(w, dim=2)
        )
        hidden = torch.ones(s, s, dtype=torch.bool, device=x.device).triu(1)
        scores = (q @ k.transpose(-1, -2)).masked_fill(hidden, -torch.inf).softmax(-1)
        y = (scores @ v).transpose(1, 2).reshape(b, s, w)
        x = x + self.dropout(self.project(y))
        return x + self.dropout(self.down(F.gelu(self.up(self.norm2(x)))))


class Gpt(nn.Module):
    def __init__(
        self, vocab: int, width: int, heads: int, layers: int, seq: int, tied: bool, dropout: float
    ) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocab, width), nn.Embedding(seq, width)
        self.blocks = nn.Sequential(*[Block(width, heads, dropout) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocab, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        return self.head(self.norm(self.blocks(self.tokens(ids) + self.places(places))))


def language_loss(batch: int, seq: int):
    ids = torch.zeros(batch, seq, dtype=torch.long).to("moai")
    return lambda m: F.cross_entropy(m(ids).flatten(0, 1), ids.flatten())


class Llama(nn.Module):
    """Grouped heads, rotated halves, RMS norm by hand, a gated feed-forward net."""

    def __init__(
        self, vocab: int = 22, width: int = 24, heads: int = 4, shared: int = 2, inner: int = 36
    ) -> None:
        super().__init__()
        self.heads, self.shared, self.size = heads, shared, width // heads
        self.tokens, self.head = nn.Embedding(vocab, width), nn.Linear(width, vocab, bias=False)
        self.scale = nn.Parameter(torch.ones(width))
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * shared * self.size, bias=False)
        self.o = nn.Linear(width, width, bias=False)
        self.gate_up, self.down = nn.Linear(width, 2 * inner, bias=False), nn.Linear(inner, width, bias=False)

    def rms(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        angles = torch.arange(x.shape[2], device=x.device).double()[:, None] / torch.arange(
            1, self.size // 2 + 1, device=x.device
        )
        angles = torch.cat([angles, angles], -1)
        a, b = x.chunk(2, -1)
        return x * angles.cos() + torch.cat([-b, a], -1) * angles.sin()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids)
        h = self.rms(x)
        b, s, _ = h.shape
        q = self.rotate(self.q(h).view(b, s, self.heads, self.size).transpose(1, 2))
        k, v = self.kv(h).view(b, s, 2, self.shared, self.size).permute(2, 0, 3, 1, 4)
        times = self.heads // self.shared
        k, v = (
            t[:, :, None].expand(-1, -1, times, -1, -1).reshape(b, -1, s, self.size)
            for t in (self.rotate(k), v)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, s, -1)
        x = x + self.o(y)
        gate, up = self.gate_up(self.rms(x)).chunk(2, -1)
        return self.head(self.rms(x + self.down(F.silu(gate) * up)))


def convolutional() -> tuple[str, list]:
    def make() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, padding=1, groups=4), nn.GroupNorm(4, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(8, 10),
        )  # fmt: skip

    images, labels = torch.zeros(7, 3, 8, 8).double().to("moai"), torch.zeros(7, dtype=torch.long).to("moai")
    return recorded(
        make,
        lambda m: F.cross_entropy(m(images), labels),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    )


def traps() -> tuple[str, list]:
    """Odd sizes; class weights, an ignored class, smoothing; sum and none; a loss by a count; a contrastive one."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(9, 10), nn.Linear(10, 5)
            self.weights = nn.Parameter(torch.rand(5) + 0.5, requires_grad=False)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            h = self.body(x).tanh()
            logits = self.head(h)
            z = F.normalize(h, dim=-1)
            own = torch.arange(7, device=x.device)
            count = (logits.argmax(-1) == y).sum().clamp(min=1)
            return (
                F.cross_entropy(logits, y, weight=self.weights, ignore_index=2)
                + F.cross_entropy(logits, y, ignore_index=2, label_smoothing=0.1)
                + F.cross_entropy(logits, y, reduction="sum", ignore_index=1) / count
                + (F.cross_entropy(logits, y, reduction="none") * logits[:, 0].sigmoid()).mean()
                + F.cross_entropy(z @ z.T / 0.5, own)
                + F.mse_loss(h, h.flip(0).detach())
                + logits.softmax(-1).mean(0).square().sum() * 0.01
                + torch.cumsum(h, 0).amax(0).sum() * 0.1
            )

    x, y = torch.zeros(7, 9).double().to("moai"), torch.zeros(7, dtype=torch.long).to("moai")
    return recorded(
        Net,
        lambda m: m(x, y),
        lambda p: torch.optim.AdamW([q for q in p if q.requires_grad], lr=0.1, fused=True),
    )


class Experts(nn.Module):
    """Each token goes through the two experts that its router likes best, rows sorted by expert."""

    def __init__(self, vocab: int = 16, width: int = 8, inner: int = 12, experts: int = 5) -> None:
        super().__init__()
        self.tokens, self.head = nn.Embedding(vocab, width), nn.Linear(width, vocab)
        self.router = nn.Linear(width, experts)
        self.up = nn.Parameter(torch.rand(experts, width, inner))
        self.down = nn.Parameter(torch.rand(experts, width, inner))  # turned, as in most models

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids).flatten(0, 1)
        weight, chosen = self.router(x).softmax(-1).topk(2)
        expert, order = chosen.flatten().sort(stable=True)
        ends = (expert[:, None] == torch.arange(self.up.shape[0], device=ids.device)).sum(0)
        ends = ends.cumsum(0).to(torch.int32)
        y = F.grouped_mm(F.silu(F.grouped_mm(x[order // 2], self.up, offs=ends)), self.down.mT, offs=ends)
        y = y * weight.flatten()[order, None]
        return self.head(x + torch.zeros_like(x).index_add(0, order // 2, y)).unflatten(0, ids.shape)


STEPS = {
    "gpt2": lambda: recorded(lambda: Gpt(21, 20, 5, 2, 6, tied=False, dropout=0.1), language_loss(7, 6)),
    "tied": lambda: recorded(lambda: Gpt(16, 16, 4, 1, 4, tied=True, dropout=0.0), language_loss(8, 4)),
    "llama": lambda: recorded(Llama, language_loss(4, 8)),
    "experts": lambda: recorded(Experts, language_loss(4, 3)),
    "convolutional": convolutional,
    "traps": traps,
}
_steps: dict[str, tuple] = {}


def step(name: str) -> tuple[str, list, list[torch.Tensor], list[torch.Tensor]]:
    """A recorded step with inputs made up for it, and what the whole graph makes of them."""
    if name not in _steps:
        text, numbers = STEPS[name]()
        inputs = inputs_for(text)
        _steps[name] = text, numbers, inputs, local_graphs.run_graph(text, inputs, numbers)
    return _steps[name]


def inputs_for(text: str) -> list[torch.Tensor]:
    """Positive numbers, which weights, variances and step counters may all be; indices below 4."""
    torch.manual_seed(1)
    inputs = []
    for _, type_ in local_graphs.read(text).inputs:
        if type_.dtype.is_floating_point:
            inputs.append(torch.rand(type_.sizes, dtype=type_.dtype) * 0.5 + 0.05)
        else:
            inputs.append(torch.randint(0, 4, type_.sizes, dtype=type_.dtype))
    return inputs


def data_dims(text: str) -> list[tuple[int, int]]:
    graph = local_graphs.read(text)
    found = [(i, 0) for i, (_, t) in enumerate(graph.inputs) if t.dtype == torch.int64 and t.sizes]
    assert found, "the step has no batch of integers"
    return found


counts: Counter[str] = Counter()


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("devices", DEVICES)
def test_pinned_forms_give_the_same_numbers(name: str, devices: int) -> None:
    text, numbers, inputs, whole = step(name)
    batch = data_dims(text)
    for mesh in MESHES[devices]:
        forms = {
            "data": _C.greedy_local_graphs(text, mesh, batch, False, False),
            "tensor": _C.greedy_local_graphs(text, mesh, batch, True, False),
            "sharded states": _C.greedy_local_graphs(text, mesh, batch, False, True),
            "anything": _C.greedy_local_graphs(text, mesh, [], True, True),
            "planned": _C.planned_local_graphs(text, mesh),
        }
        for form, plan in forms.items():
            merged = device_graphs.bucketed(plan)
            try:
                device_graphs.check(merged, whole, inputs, numbers)
            except Exception as error:
                raise AssertionError(f"{name}, {form} on {mesh}") from error


@pytest.mark.parametrize("name", ["gpt2", "llama", "convolutional"])
def test_sums_start_where_their_terms_are_made(name: str) -> None:
    """And not where they are first wanted, which for a gradient is after all of backward."""
    text = step(name)[0]
    # With sharded states Llama's head takes a partial sum as it is.
    for sharded in (False,) if name == "llama" else (False, True):
        plan = _C.greedy_local_graphs(text, [2], data_dims(text), False, sharded)
        graph = local_graphs.read(plan["graphs"][0])
        # By value: how many ops stand before the one that computes it, views apart; what a view is of.
        made: dict[int, int] = {}
        root: dict[int, int] = {}
        ops, met = 0, set()
        for node in graph.nodes:
            values = [a.index for a in node.args if isinstance(a, local_graphs.Ref) and a.kind == "%"]
            of = root.get(values[0], values[0]) if values else None
            if node.op in ("moai.all_reduce", "moai.reduce_scatter") and of not in met:
                assert made[of] == ops, node.text
                met.add(of)
            is_view = node.op in ("moai.reshape", "moai.permute", "moai.slice")
            ops += not node.op.startswith("moai.")
            for result, _ in node.results:
                made[result] = ops
                root[result] = of if is_view else result
        assert len(met) > 5


def test_gradients_of_vectors_meet_in_buckets() -> None:
    """Biases and norms' weights, each a few numbers: one meeting for many of them."""
    text = step("gpt2")[0]
    plan = _C.greedy_local_graphs(text, [2], data_dims(text), False, False)
    before, after = (local_graphs.read(p["graphs"][0]).nodes for p in (plan, device_graphs.bucketed(plan)))
    starts = [
        sum(node.op in {*device_graphs.COLLECTIVES, "moai.bucket"} for node in nodes)
        for nodes in (before, after)
    ]
    sums = sum(len(node.results) for node in after if node.op == "moai.bucket")
    assert starts[1] * 3 < starts[0] and sums > 10, (starts, sums)


ROOM = 5.0  # for each row to go to any expert


@pytest.mark.parametrize(("name", "capacity"), [*[(name, 0.0) for name in STEPS], ("experts", ROOM)])
@pytest.mark.parametrize("devices", DEVICES)
def test_random_plans_give_the_same_numbers(name: str, capacity: float, devices: int) -> None:
    text, numbers, inputs, whole = step(name)
    for mesh in MESHES[devices]:
        for seed in range(2 if capacity == 0 else 6):
            plan, used = _C.random_local_graphs(text, mesh, seed, dict(counts), capacity)
            counts.update({k: v - counts[k] for k, v in used.items()})
            assert plan["split_share"] >= 0.6
            try:
                device_graphs.check(device_graphs.bucketed(plan), whole, inputs, numbers)
            except Exception as error:
                raise AssertionError(f"{name}, random:{seed} on {mesh}") from error
