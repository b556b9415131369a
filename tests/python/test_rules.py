"""The rules of ops against ATen: split by each factor, in parts, run, put together as the rule says, equal to the whole.

All in float64 on the CPU. A failure names the op, the factor and the number of parts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from moai import _C
from rule_arguments import GROUPED, A, grouped_mm
from rule_cases import ROWS
from torch.utils._pytree import tree_flatten

NAMES = {
    torch.float64: "f64",
    torch.float32: "f32",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.bool: "bool",
}
STATIC_NUMBERS = {
    "aten.pow.Tensor_Scalar",
    "aten.linalg_vector_norm",
    "aten._foreach_norm.Scalar",
    "aten.norm.Scalar",
    "aten.norm.ScalarOpt_dim",
    "aten.arange",
    "aten.histc",
}


def ir_name(op: torch._ops.OpOverload) -> str:
    return str(op).removesuffix(".default")


def type_text(t: torch.Tensor) -> str:
    sizes = ",".join(map(str, t.shape))
    strides = "" if t.is_contiguous() else "{" + ",".join(map(str, t.stride())) + "}"
    return f"{NAMES[t.dtype]}[{sizes}]{strides}"


class Call:
    """A call of an op, and the rule that moai has for it."""

    def __init__(self, op: torch._ops.OpOverload, args: tuple) -> None:
        self.op, self.args = op, list(args)
        self.operands: list[torch.Tensor] = []
        self.places: list[tuple[int, int | None]] = []  # by operand: the argument, and where in a list
        for i, value in enumerate(args):
            for j, one in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(one, torch.Tensor):
                    self.operands.append(one)
                    self.places.append((i, j if isinstance(value, list) else None))
        self.results = self.run(self.args)
        (self.rule,) = _C.rules(self.text())

    def text(self) -> str:
        """The graph of the call alone, as the recorder would write it."""
        numbers: list[str] = []
        self.numbers: list[float | int] = []
        position = itertools.count()

        def argument(value: object, schema: torch._C.Argument) -> str:
            kind = str(schema.type)
            if isinstance(value, torch.Tensor):
                return f"%{next(position)}"
            if isinstance(value, list) and "Tensor" in kind:
                return "[" + ", ".join(argument(v, schema) for v in value) + "]" if value else "tensor[]"
            if value is None:
                return "none"
            if isinstance(value, bool):
                return str(value).lower()
            if isinstance(value, str):
                return f'"{value}"'
            if isinstance(value, torch.dtype):
                return NAMES[value]
            is_number = "number" in kind or "Scalar" in kind or "float" in kind
            if is_number and ir_name(self.op) not in STATIC_NUMBERS:
                numbers.append("f" if isinstance(value, float) else "i")
                self.numbers.append(value)
                return f"n{len(numbers) - 1}"
            if isinstance(value, list):
                return "[" + ",".join(str(v).lower() for v in value) + "]"
            return repr(float(value)) if isinstance(value, float) else str(value)

        args = ", ".join(argument(v, s) for v, s in zip(self.args, self.op._schema.arguments, strict=False))
        inputs = ", ".join(f"%{i}: {type_text(t)}" for i, t in enumerate(self.operands))
        first = len(self.operands)
        outs = ", ".join(f"%{first + i}: {type_text(t)}" for i, t in enumerate(self.results))
        names = ", ".join(f"%{first + i}" for i in range(len(self.results)))
        return f"graph({inputs}) numbers({', '.join(numbers)}) {{\n {outs} = {ir_name(self.op)}({args})\n return {names}\n}}"

    def with_operands(self, operands: list[torch.Tensor]) -> list:
        args = [list(a) if isinstance(a, list) else a for a in self.args]
        for (i, j), tensor in zip(self.places, operands, strict=True):
            if j is None:
                args[i] = tensor
            else:
                args[i][j] = tensor
        return args

    def run(self, args: list) -> list[torch.Tensor]:
        named = [getattr(a, "kwarg_only", False) for a in self.op._schema.arguments][: len(args)]
        by_name = {a.name: v for a, v, n in zip(self.op._schema.arguments, args, named, strict=False) if n}
        out = self.op(*args[: len(args) - len(by_name)], **by_name)
        return [t for t in tree_flatten(out)[0] if isinstance(t, torch.Tensor)]


def part_of(
    t: torch.Tensor, dims: list[list[int]], sizes: list[int], factor: int, part: range
) -> torch.Tensor:
    """The part of a tensor whose index along `factor` lies in `part`."""
    flat = [f for dim in dims for f in dim]
    if factor not in flat:
        return t
    open_ = t.reshape([sizes[f] for f in flat]).narrow(flat.index(factor), part.start, len(part))
    local = [len(part) if f == factor else sizes[f] for f in range(len(sizes))]
    # Kernels of backward passes take their tensors for contiguous.
    return open_.reshape([math.prod(local[f] for f in dim) for dim in dims]).contiguous()


COMBINE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sum": lambda parts: parts.sum(0),
    "product": lambda parts: parts.prod(0),
    "max": lambda parts: parts.amax(0),
    "min": lambda parts: parts.amin(0),
    "norm2": lambda parts: parts.square().sum(0).sqrt(),
    "any": lambda parts: parts.any(0),
    "all": lambda parts: parts.all(0),
}


# --- What a local op does that must know where its part starts -----------------------------------


def masked(index: int, call: Call, args: list, part: range, run: Callable) -> list[torch.Tensor]:
    """A table split by rows: indices outside the part give zeros."""
    inside = (args[index] >= part.start) & (args[index] < part.stop)
    args[index] = torch.where(inside, args[index] - part.start, 0)
    (out,) = run(args)
    return [out * inside.reshape(*inside.shape, *[1] * (out.dim() - inside.dim()))]


def masked_select(call: Call, args: list, part: range, run: Callable) -> list[torch.Tensor]:
    inside = (args[2] >= part.start) & (args[2] < part.stop)
    args[2] = torch.where(inside, args[2] - part.start, 0)
    (out,) = run(args)
    shape = [-1 if d == args[1] else 1 for d in range(out.dim())]
    return [out * inside.reshape(shape)]


def masked_index(call: Call, args: list, part: range, run: Callable) -> list[torch.Tensor]:
    (at,) = [i for i, t in enumerate(args[1]) if t is not None]
    index = args[1][at]
    inside = (index >= part.start) & (index < part.stop)
    args[1][at] = torch.where(inside, index - part.start, 0)
    (out,) = run(args)
    return [out * inside.reshape(*[1] * at, *inside.shape, *[1] * (out.dim() - at - inside.dim()))]


def masked_gradient(call: Call, args: list, part: range, run: Callable) -> list[torch.Tensor]:
    """Rows outside the part are dropped, as rows of padding are."""
    inside = (args[1] >= part.start) & (args[1] < part.stop)
    args[0] = args[0] * inside.unsqueeze(-1)
    args[1] = torch.where(inside, args[1] - part.start, 0)
    return run(args)


def masked_targets(target: int, ignore: int) -> Callable:
    """Targets of other parts are passed over, as ignored ones are."""

    def run_part(call: Call, args: list, part: range, run: Callable) -> list[torch.Tensor]:
        own = (args[target] >= part.start) & (args[target] < part.stop) & (args[target] != args[ignore])
        args[target] = torch.where(own, args[target] - part.start, -100)
        args[ignore] = -100
        return run(args)

    return run_part


def later_queries(causal: int, keys: int) -> Callable:
    """A causal mask whose first query is not the first position."""

    def run_part(call: Call, args: list, part: range, run: Callable) -> list[torch.Tensor]:
        if not args[causal]:
            return run(args)
        seen = torch.arange(args[keys].size(2))[None] <= torch.arange(part.start, part.stop)[:, None]
        bias = torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, -math.inf)
        return run([*args[:causal], False, bias])

    return run_part


def whole_then_part(call: Call, args: list, part: range, run: Callable) -> list[torch.Tensor]:
    """A value that is a function of the position alone."""
    return [t.narrow(0, part.start, len(part)) for t in call.run(call.args)]


def triangle(call: Call, args: list, part: range, run: Callable, dim: int) -> list[torch.Tensor]:
    args[1] += part.start if dim == -2 else -part.start
    return run(args)


def grouped_part(call: Call, args: list, part: range, run: Callable) -> list[torch.Tensor]:
    """Groups that begin where the group before the part ends."""
    args[2] = args[2][part.start : part.stop]
    return [grouped_mm(*args, first=int(call.args[2][part.start - 1]) if part.start else 0)]


def seen_from(call: Call, part: range) -> tuple[int, int]:
    """The index, in a plane of the whole, of the first place that a part of a pool sees; and its windows' step."""
    (factor,) = [f for f, info in enumerate(call.rule["factors"]) if info["window"]]
    window = Window(call.rule, factor, part)
    dims = next(dims for dims in call.rule["operands"] if [window.over] in dims)
    sizes = [math.prod(call.rule["factors"][f]["size"] for f in dim) for dim in dims]
    inner = math.prod(sizes[dims.index([window.over]) + 1 :])
    return window.seen.start * inner, window.dilation * inner


def found_in_part(call: Call, args: list, part: range, run: Callable) -> list[torch.Tensor]:
    """Where nothing is larger than the padding, the first place of a window is found: within, by its steps."""
    values, index = run(args)
    start, step = seen_from(call, part)
    index = index + start
    return [values, torch.where(index < 0, index % step, index)]


def given_in_part(call: Call, args: list, part: range, run: Callable) -> list[torch.Tensor]:
    args[7] = args[7] - seen_from(call, part)[0]
    return run(args)


POSITIONAL: dict[tuple[object, str], Callable] = {
    (A.embedding.default, "v"): lambda *a: masked(1, *a),
    (A.embedding_dense_backward.default, "v"): masked_gradient,
    (A.index_select.default, "v"): masked_select,
    (A.index.Tensor, "v"): masked_index,
    (A.nll_loss_forward.default, "c"): masked_targets(1, 4),
    (A.nll_loss2d_forward.default, "c"): masked_targets(1, 4),
    (A.nll_loss_backward.default, "c"): masked_targets(2, 5),
    (A._scaled_dot_product_flash_attention_for_cpu.default, "s"): later_queries(4, 1),
    (A._scaled_dot_product_flash_attention_for_cpu_backward.default, "s"): later_queries(7, 2),
    (A.arange.default, "d.0"): whole_then_part,
    (A.arange.start, "d.0"): whole_then_part,
    (A.arange.start_step, "d.0"): whole_then_part,
    (A.linspace.default, "d.0"): whole_then_part,
    (A.eye.default, "i"): whole_then_part,
    (A.eye.default, "j"): lambda call, args, part, run: [
        call.run(call.args)[0].narrow(1, part.start, len(part))
    ],
    (GROUPED, "g"): grouped_part,
    (A._unsafe_index.Tensor, "v"): masked_index,
    (A.nll_loss2d_backward.default, "c"): masked_targets(2, 5),
    (A.triu.default, "i"): lambda *a: triangle(*a, dim=-2),
    (A.triu.default, "j"): lambda *a: triangle(*a, dim=-1),
    (A.eye.m, "i"): whole_then_part,
    (A.eye.m, "j"): lambda call, args, part, run: [call.run(call.args)[0].narrow(1, part.start, len(part))],
    (A.max_pool2d_with_indices.default, "z0"): found_in_part,
    (A.max_pool2d_with_indices.default, "z1"): found_in_part,
    (A.max_pool2d_with_indices_backward.default, "z0"): given_in_part,
    (A.max_pool2d_with_indices_backward.default, "z1"): given_in_part,
    (A.tril.default, "i"): lambda *a: triangle(*a, dim=-2),
    (A.tril.default, "j"): lambda *a: triangle(*a, dim=-1),
}


# --- What a local op does that speaks with the other parts inside ---------------------------------


def softmax_parts(op: torch._ops.OpOverload, parts: list[list], dim: int) -> list[torch.Tensor]:
    """Softmax and its backward from reductions of a number a row: the maximum and the sum, or one sum."""
    if op in (A._softmax.default, A._log_softmax.default):
        xs = [args[0] for args in parts]
        top = torch.stack([x.amax(dim, keepdim=True) for x in xs]).amax(0)
        total = torch.stack([(x - top).exp().sum(dim, keepdim=True) for x in xs]).sum(0)
        log = op is A._log_softmax.default
        return [x - top - total.log() if log else (x - top).exp() / total for x in xs]
    if op is A._softmax_backward_data.default:
        total = torch.stack([(a[0] * a[1]).sum(dim, keepdim=True) for a in parts]).sum(0)
        return [a[1] * (a[0] - total) for a in parts]
    total = torch.stack([a[0].sum(dim, keepdim=True) for a in parts]).sum(0)
    return [a[0] - a[1].exp() * total for a in parts]


# --- What a local op sees beside its part ---------------------------------------------------------


class Window:
    """The places that a part's windows see, those outside of the whole included."""

    def __init__(self, rule: dict, factor: int, part: range) -> None:
        info = rule["factors"][factor]["window"]
        self.over = info["over"]
        first, last = (place * info["stride"] - info["padding"] for place in (part[0], part[-1]))
        self.seen = range(first, last + (info["size"] - 1) * info["dilation"] + 1)
        self.whole = rule["factors"][self.over]["size"]
        self.outside, self.dilation = info["outside"], info["dilation"]
        self.argument, self.dim, self.dims = info["padding_arg"], info["dim"], info["dims"]

    def dim_of(self, dims: list[list[int]]) -> int | None:
        return dims.index([self.over]) if [self.over] in dims else None

    def see(self, t: torch.Tensor, dims: list[list[int]]) -> torch.Tensor:
        if (dim := self.dim_of(dims)) is None:
            return t
        beside = [max(-self.seen.start, 0), max(self.seen.stop - self.whole, 0)]
        wide = torch.nn.functional.pad(t, [0, 0] * (t.dim() - dim - 1) + beside, value=self.outside)
        return wide.narrow(dim, self.seen.start + beside[0], len(self.seen)).contiguous()

    def without_padding(self, args: list) -> list:
        if len(args) <= self.argument:  # left out: there is none
            return args
        padding = args[self.argument]
        padding = padding * self.dims if len(padding) == 1 else list(padding)
        padding[self.dim] = 0
        return [padding if i == self.argument else a for i, a in enumerate(args)]

    def add_to(self, whole: torch.Tensor, share: torch.Tensor, dim: int) -> None:
        for i, place in enumerate(self.seen):
            if 0 <= place < self.whole:
                whole.select(dim, place).add_(share.select(dim, i))


def put_windows_together(
    call: Call, factor: int, parts: list[range], results: list[list[torch.Tensor]]
) -> set[int]:
    """Checks what lies as what is seen: each part's share of it is added. Returns which results these are."""
    found = set()
    for r, whole in enumerate(call.results):
        windows = [Window(call.rule, factor, part) for part in parts]
        if (dim := windows[0].dim_of(call.rule["results"][r])) is None:
            continue
        got = torch.zeros_like(whole)
        for window, of_part in zip(windows, results, strict=True):
            window.add_to(got, of_part[r], dim)
        torch.testing.assert_close(got, whole)
        found.add(r)
    return found


def put_together(call: Call, factor: int, parts: list[range], results: list[list[torch.Tensor]]) -> None:
    rule = call.rule
    sizes = [f["size"] for f in rule["factors"]]
    of_windows = (
        put_windows_together(call, factor, parts, results) if rule["factors"][factor]["window"] else set()
    )
    for r, whole in enumerate(call.results):
        if r in of_windows:
            continue
        got = [of_part[r] for of_part in results]
        dims = rule["results"][r]
        if any(factor in dim for dim in dims):
            for part, one in zip(parts, got, strict=True):
                torch.testing.assert_close(one, part_of(whole, dims, sizes, factor, part))
            continue
        how = rule["combine"][r][factor]
        if how == "same":
            for one in got:
                torch.testing.assert_close(one, whole)
        elif how == "mean":
            weights = torch.tensor([len(p) for p in parts], dtype=torch.float64) / sizes[factor]
            torch.testing.assert_close(sum(w * one for w, one in zip(weights, got, strict=True)), whole)
        elif how == "weighted":
            weights = [of_part[r + 1] for of_part in results]
            total = sum(torch.where(w > 0, w * one, 0) for w, one in zip(weights, got, strict=True))
            torch.testing.assert_close(total / sum(weights), whole)
        else:
            torch.testing.assert_close(COMBINE[how](torch.stack(got)), whole)


def check_factor(call: Call, factor: int, count: int) -> None:
    rule = call.rule
    sizes = [f["size"] for f in rule["factors"]]
    info = rule["factors"][factor]
    bounds = [sizes[factor] * p // count for p in range(count + 1)]
    parts = [range(a, b) for a, b in itertools.pairwise(bounds)]
    part_args = []
    for p, part in enumerate(parts):
        operands = []
        window = Window(rule, factor, part) if info["window"] else None
        for o, (tensor, dims) in enumerate(zip(call.operands, rule["operands"], strict=True)):
            if o in rule["additive"] and not any(factor in dim for dim in dims):
                summed = not any(factor in dim for dims in rule["results"] for dim in dims)
                operands.append(tensor if p == 0 or not summed else torch.zeros_like(tensor))
            elif o in rule["replicated"]:
                operands.append(tensor)
            elif o in rule["averaged"]:
                operands.append(tensor * (len(part) / sizes[factor]))
            else:
                own = part_of(tensor, dims, sizes, factor, part)
                operands.append(window.see(own, dims) if window else own)
        args = call.with_operands(operands)
        for arg, element, factors, times in rule["local_args"]:
            size = times * math.prod(len(part) if f == factor else sizes[f] for f in factors)
            if element < 0:
                args[arg] = size
            else:
                args[arg] = [size if i == element else v for i, v in enumerate(args[arg])]
        part_args.append(window.without_padding(args) if window else args)
    if info["exchanges"]:
        (dim,) = [d for d, dims in enumerate(rule["operands"][0]) if factor in dims]
        put_together(call, factor, parts, [[one] for one in softmax_parts(call.op, part_args, dim)])
        return
    adjust = POSITIONAL.get((call.op, info["name"])) if info["positional"] else None
    if info["positional"]:
        assert adjust is not None, f"{call.op}: no part of this test knows what its position means"
    results = [
        adjust(call, args, part, call.run) if adjust else call.run(args)
        for args, part in zip(part_args, parts, strict=True)
    ]
    put_together(call, factor, parts, results)


@pytest.mark.parametrize("row", range(len(ROWS)), ids=lambda i: f"{i}-{ir_name(ROWS[i][0])}")
def test_parts_make_the_whole(row: int) -> None:
    op, make = ROWS[row]
    call = Call(op, make())
    assert call.rule["known"], f"{op} has no rule"
    for factor, info in enumerate(call.rule["factors"]):
        if info["splittable"]:
            for count in (2, 3, 4):
                if info["size"] >= count:
                    check_factor(call, factor, count)


@pytest.mark.parametrize("row", range(len(ROWS)), ids=lambda i: f"{i}-{ir_name(ROWS[i][0])}")
def test_partial_sums_pass_through_what_is_linear(row: int) -> None:
    op, make = ROWS[row]
    call = Call(op, make())
    for operands in call.rule["linear"]:
        parts = [[], []]
        for o, tensor in enumerate(call.operands):
            first = torch.randn_like(tensor) if o in operands and tensor.is_floating_point() else tensor
            parts[0].append(first)
            parts[1].append(tensor - first if o in operands and tensor.is_floating_point() else tensor)
        a, b = (call.run(call.with_operands(p)) for p in parts)
        for x, y, whole in zip(a, b, call.results, strict=True):
            torch.testing.assert_close(x + y, whole)


# Why an op with a rule has no row.
NO_ROW = {
    "no kernel on the CPU; the entry of convolution": ["convolution_overrideable", "convolution_backward_overrideable"],
    "between a device and its host: test_offload": ["moai.to_host", "moai.from_host"],
    "parts keep an order of their own, which is not the whole's: test_partition, test_routed_rows": [
        "moai.sort_rows", "moai.inverse_rows", "moai.take_rows", "moai.grouped_rows_mm", "moai.return_rows",
        "moai.put_rows", "moai.assign_slots", "moai.rows_to_experts", "moai.rows_to_tokens", "moai.slots_mm",
        "moai.take_experts", "moai.add_to_experts",
    ],
    "its values are not defined": ["empty.memory_format", "empty_strided", "moai.undefined"],
    "random: by global index, test_samplers": [
        "uniform", "normal", "bernoulli", "bernoulli.p", "bernoulli.float", "bernoulli.Tensor", "random", "random.to",
        "random.from", "exponential", "geometric", "cauchy", "log_normal", "native_dropout",
        "normal.Tensor_float", "normal.float_Tensor", "normal.Tensor_Tensor", "rrelu_with_noise",
    ],
}  # fmt: skip
# Ops whose rows have no factor to split.
NO_FACTOR = {"bincount", "scalar_tensor"}


def base(name: str) -> str:
    return name.removeprefix("aten.").removesuffix(".default")


def test_every_rule_has_a_row() -> None:
    excused = {name for names in NO_ROW.values() for name in names}
    rest = set(_C.ops_with_rules()) - {base(str(op)) for op, _ in ROWS}
    assert rest - excused == set(), "rules that no row of rule_cases.py holds against ATen"
    assert excused - rest == set(), "names excused without need"


def test_every_rule_has_a_factor_that_is_split() -> None:
    split: dict[str, bool] = {}
    for op, make in ROWS:
        can = any(f["splittable"] and f["size"] >= 2 for f in Call(op, make()).rule["factors"])
        split[base(str(op))] = split.get(base(str(op)), False) or can
    assert {name for name, can in split.items() if not can} == NO_FACTOR, "rows in which nothing is split"
