"""Runs a graph of the IR on CPU tensors with torch's own operators: those of N devices are device_graphs.py's."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from moai import _C
from rule_arguments import GROUPED, RMS_NORM, RMS_NORM_BACKWARD

DTYPES = {
    "f64": torch.float64, "f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "i64": torch.int64,
    "i32": torch.int32, "u8": torch.uint8, "bool": torch.bool, "c64": torch.complex64, "c128": torch.complex128,
}  # fmt: skip
BY_NUMBER = {
    6: torch.float32,
    7: torch.float64,
    5: torch.float16,
    15: torch.bfloat16,
    3: torch.int32,
    4: torch.int64,
    11: torch.bool,
}


@dataclass(frozen=True)
class Ref:
    """A value, by name, or a number of the step."""

    kind: str  # "%" or "n"
    index: int


@dataclass
class Type:
    dtype: torch.dtype
    sizes: list[int]
    strides: list[int] | None


@dataclass
class Node:
    op: str
    args: list
    results: list[tuple[int, Type]]
    tied: list[int | None]
    text: str
    index: int


@dataclass
class Graph:
    inputs: list[tuple[int, Type]]
    numbers: list[str]
    nodes: list[Node]
    outputs: list[int]
    text: str


# --- Reading the text form ------------------------------------------------------------------------

TOKEN = re.compile(
    r'\s*(?:(?P<string>"(?:[^"\\]|\\.)*")|(?P<value>%\d+)|(?P<operand>\$\d+)'
    r"|(?P<float>-?(?:inf|nan)\b|-?\d+(?:\.\d+(?:e[+-]?\d+)?|e[+-]?\d+))|(?P<int>-?\d+)"
    r"|(?P<word>!?[A-Za-z_][A-Za-z_0-9.]*)|(?P<mark>[\[\](){},=@:]))"
)


class Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, str]] = []
        at = 0
        while text[at:].strip() if at + 200 > len(text) else True:
            match = TOKEN.match(text, at)
            assert match, f"cannot read {text[at : at + 60]!r}"
            self.tokens.append((str(match.lastgroup), match.group(str(match.lastgroup))))
            at = match.end()
        self.at = 0

    def peek(self, ahead: int = 0) -> str:
        return self.tokens[self.at + ahead][1] if self.at + ahead < len(self.tokens) else ""

    def take(self, expected: str | None = None) -> str:
        token = self.tokens[self.at][1]
        assert expected is None or token == expected, f"{expected} expected, not {token}"
        self.at += 1
        return token

    def accept(self, token: str) -> bool:
        if self.peek() != token:
            return False
        self.at += 1
        return True

    def listed(self, open_: str, close: str, item: Callable[[], object]) -> list:
        self.take(open_)
        items: list = []
        while not self.accept(close):
            items.append(item())
            self.accept(",")
        return items

    def integers(self, open_: str, close: str) -> list[int]:
        return self.listed(open_, close, lambda: int(self.take()))

    def type(self) -> Type:
        dtype = DTYPES[self.take()]
        sizes = self.integers("[", "]")
        return Type(dtype, sizes, self.integers("{", "}") if self.peek() == "{" else None)

    def typed(self) -> tuple[int, Type, int | None]:
        name = int(self.take()[1:])
        tied = int(self.take()) if self.accept("@") else None
        self.take(":")
        return name, self.type(), tied

    def argument(self, operands: list[Ref] | None) -> object:
        kind, token = self.tokens[self.at]
        if token == "[":
            return self.listed("[", "]", lambda: self.argument(operands))
        self.at += 1
        if kind == "value":
            return Ref("%", int(token[1:]))
        if kind == "operand":
            assert operands is not None
            return operands[int(token[1:])]
        if kind == "float":
            return float(token)
        if kind == "int":
            return int(token)
        if kind == "string":
            return token[1:-1]
        if token in ("true", "false"):
            return token == "true"
        if token == "none":
            return None
        if token in DTYPES:
            return DTYPES[token]
        if token == "host":
            self.take("(")
            number = Ref("n", int(self.take()[1:]))
            self.take(",")
            dtype = DTYPES[self.take()]
            if self.accept(","):
                self.take("wrapped")
            self.take(")")
            return (number, dtype)
        if token in ("tensor", "float", "bool", "number") and self.accept("["):
            self.take("]")
            return []
        assert re.fullmatch(r"n\d+", token), f"what is {token}?"
        return Ref("n", int(token[1:]))

    def node(self, index: int) -> Node:
        start = self.at
        results, tied = [], []
        while self.peek().startswith("%"):
            name, type_, tie = self.typed()
            results.append((name, type_))
            tied.append(tie)
            self.accept(",")
        if results:
            self.take("=")
        self.accept("!bw")
        op = self.take().strip('"')
        operands = None
        if self.peek() == "[":
            operands = self.listed("[", "]", lambda: Ref("%", int(self.take()[1:])))
        self.take("(")
        args: list = []
        while not self.accept(")"):
            if self.peek() == "offset":
                self.at += 2
            if op == "update" and len(args) == 2 and self.peek() == "[":
                args.append(self.integers("[", "]"))
                args.append(self.integers("{", "}") if self.peek() == "{" else None)
            else:
                args.append(self.argument(operands))
            self.accept(",")
        return Node(
            op, args, results, tied, " ".join(t for _, t in self.tokens[start : self.at])[:400], index
        )

    def graph(self) -> Graph:
        self.take("graph")
        inputs = [(n, t) for n, t, _ in self.listed("(", ")", self.typed)]
        numbers = []
        if self.accept("numbers"):
            numbers = self.listed("(", ")", self.take)
        self.take("{")
        nodes = []
        while not self.accept("return"):
            nodes.append(self.node(len(nodes)))
        outputs = []
        while not self.accept("}"):
            outputs.append(int(self.take()[1:]))
            self.accept(",")
        return Graph(inputs, numbers, nodes, outputs, self.text)


def read(text: str) -> Graph:
    return Reader(text).graph()


# --- Running --------------------------------------------------------------------------------------


def contiguous_strides(sizes: list[int]) -> list[int]:
    strides, step = [], 1
    for size in reversed(sizes):
        strides.append(step)
        step *= max(size, 1)
    return strides[::-1]


def laid_out(x: torch.Tensor, type_: Type) -> torch.Tensor:
    """The same elements with a type's strides (dims of one element aside)."""
    strides = type_.strides or contiguous_strides(type_.sizes)
    if all(s == t or n <= 1 for s, t, n in zip(x.stride(), strides, x.shape, strict=True)):
        return x
    return torch.empty_strided(x.shape, strides, dtype=x.dtype).copy_(x)


def as_strided(
    x: torch.Tensor, type_: Type, sizes: list[int], strides: list[int], offset: int
) -> torch.Tensor:
    base = laid_out(x, type_)
    return base.as_strided(sizes, strides, base.storage_offset() + offset)


class Machine:
    """One device's values."""

    def __init__(self, graph: Graph, inputs: list[torch.Tensor], numbers: list) -> None:
        self.graph, self.numbers = graph, numbers
        self.types = dict(graph.inputs)
        self.values: dict[int, torch.Tensor] = {}
        for (name, type_), value in zip(graph.inputs, inputs, strict=True):
            assert list(value.shape) == type_.sizes, f"%{name}: {list(value.shape)}, not {type_.sizes}"
            self.values[name] = laid_out(value, type_)

    def resolve(self, arg: object) -> object:
        if isinstance(arg, Ref):
            return self.values[arg.index] if arg.kind == "%" else self.numbers[arg.index]
        if isinstance(arg, list):
            return [self.resolve(a) for a in arg]
        if isinstance(arg, tuple):
            return torch.tensor(self.numbers[arg[0].index], dtype=arg[1])
        return arg

    def operand_names(self, node: Node) -> list[int]:
        """By operand of the node: names, in the order of the arguments."""
        names: list[int] = []
        for arg in node.args:
            for one in arg if isinstance(arg, list) else [arg]:
                if isinstance(one, Ref) and one.kind == "%":
                    names.append(one.index)
        return names

    def run(self, node: Node) -> None:
        results = self.compute(node, [self.resolve(a) for a in node.args])
        assert len(results) == len(node.results), node.text
        for (name, type_), value in zip(node.results, results, strict=True):
            assert list(value.shape) == type_.sizes, f"{list(value.shape)}, not {type_.sizes}: {node.text}"
            assert value.dtype == type_.dtype, f"{value.dtype}: {node.text}"
            # Kernels are given what the graph says: some take their operands for contiguous.
            self.values[name] = laid_out(value, type_)
            self.types[name] = type_

    def compute(self, node: Node, args: list) -> list[torch.Tensor]:
        op = node.op
        if op == "moai.slice":
            x, dim, start, length, step = args
            return [
                x.narrow(dim, start, (length - 1) * step + 1)[
                    (slice(None),) * dim + (slice(None, None, step),)
                ]
            ]
        if op == "moai.permute":
            return [args[0].permute(args[1])]
        if op == "moai.reshape":
            return [args[0].reshape(args[1])]
        if op == "moai.expand":
            return [args[0].expand(args[1])]
        if op == "moai.barrier":
            return []
        if op == "moai.check_slots":
            assert (args[0] <= 0).all(), f"too many rows: {args[0]}"
            return []
        if op == "moai.undefined":
            return [torch.zeros(node.results[0][1].sizes, dtype=node.results[0][1].dtype)]
        if op == "view":
            ((_, type_),) = node.results
            strides = type_.strides or contiguous_strides(type_.sizes)
            return [as_strided(args[0], self.types[node.args[0].index], type_.sizes, strides, args[1])]
        if op == "update":
            whole, source, sizes, strides, offset = args
            type_ = self.types[node.args[0].index]
            base = torch.empty_strided(
                whole.shape, type_.strides or contiguous_strides(type_.sizes), dtype=whole.dtype
            )
            base.copy_(whole)
            base.as_strided(sizes, strides or contiguous_strides(sizes), offset).copy_(source)
            return [base]
        if is_sampler(node):
            operands = [self.values[name].clone() for name in self.operand_names(node)]
            return _C.run_node(self.graph.text, node.index, operands, self.numbers)
        return call(node, args, self.operand_names(node))


def operator(node: Node) -> torch._ops.OpOverload:
    space, name, *overload = node.op.split(".")
    packet = getattr(getattr(torch.ops, space), name)
    return getattr(packet, overload[0] if overload else "default")


def is_sampler(node: Node) -> bool:
    """Whether it takes a seed and a counter too: torch's own generators know nothing of those."""
    return len(node.args) > len(operator(node)._schema.arguments)


# What torch has no kernel of in float64 on the CPU.
REFERENCES = {str(op): op.compute for op in (GROUPED, RMS_NORM, RMS_NORM_BACKWARD)}


def call(node: Node, args: list, names: list[int]) -> list[torch.Tensor]:
    """Calls the ATen operator. What is tied is written in copies, and returned."""
    if node.op in REFERENCES:
        out = REFERENCES[node.op](*args)
        return list(out) if isinstance(out, tuple) else [out]
    op = operator(node)
    has_ties = any(t is not None for t in node.tied)
    operands: list[torch.Tensor] = []

    def fresh(arg: object) -> object:
        if isinstance(arg, torch.Tensor) and not isinstance(arg, tuple):
            return arg.clone(memory_format=torch.preserve_format) if has_ties else arg
        if isinstance(arg, list):
            return [fresh(a) for a in arg]
        return arg

    fixed = []
    for arg, raw, schema in zip(args, node.args, op._schema.arguments, strict=False):
        kind = str(schema.type)
        value = fresh(arg)
        if (
            isinstance(arg, int)
            and not isinstance(arg, bool)
            and (schema.name == "dtype" or "ScalarType" in kind)
        ):
            value = BY_NUMBER[arg]
        if schema.name in ("layout", "device", "pin_memory"):
            value = None
        if schema.name == "memory_format":
            value = {
                None: None,
                0: torch.contiguous_format,
                1: torch.preserve_format,
                2: torch.channels_last,
            }[arg]
        if isinstance(raw, Ref) and raw.kind == "%":
            operands.append(value)
        elif isinstance(raw, list):
            operands += [v for v, r in zip(value, raw, strict=True) if isinstance(r, Ref) and r.kind == "%"]
        fixed.append(value)
    positional = [a for a, s in zip(fixed, op._schema.arguments, strict=False) if not s.kwarg_only]
    keywords = {
        s.name: a for a, s in zip(fixed, op._schema.arguments, strict=False) if s.kwarg_only and a is not None
    }
    out = op(*positional, **keywords)
    returned = [t for t in (out if isinstance(out, tuple | list) else [out]) if isinstance(t, torch.Tensor)]
    if isinstance(out, tuple | list):
        returned = [
            t for one in out for t in (one if isinstance(one, list) else [one]) if isinstance(t, torch.Tensor)
        ]
    if not has_ties:
        mask = next(
            (a for a, s in zip(fixed, op._schema.arguments, strict=False) if s.name == "output_mask"), None
        )
        if mask is not None and len(returned) > len(node.results):
            returned = [t for t, m in zip(returned, mask, strict=True) if m]
        return returned
    # Results in order: the tied ones as the op left its operand, then what it returns besides.
    tied = [operands[t] for t in node.tied if t is not None]
    others = [t for t in returned if not any(t is one for one in tied)]
    results, rest = [], iter(others)
    for t in node.tied:
        results.append(operands[t] if t is not None else next(rest))
    return results


def run_graph(text: str, inputs: list[torch.Tensor], numbers: list) -> list[torch.Tensor]:
    """Runs one graph; returns its outputs."""
    graph = read(text)
    machine = Machine(graph, inputs, numbers)
    for node in graph.nodes:
        machine.run(node)
    return [machine.values[o] for o in graph.outputs]
