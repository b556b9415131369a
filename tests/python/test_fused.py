"""Fused kernels: what is emitted gives ATen's numbers (compiled as C++, from the steps that CUDA's text is made of),
and NVRTC takes the CUDA text, with no GPU."""

from __future__ import annotations

import contextlib
import ctypes
import random
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import moai
import pytest
import torch
import torch.nn.functional as F
from moai import _C
from test_devices import Gpt

F64, F32, F16, BF16 = torch.float64, torch.float32, torch.float16, torch.bfloat16
LIBRARY = Path(moai.__file__).with_name("libmoai_cuda.so")
TOLERANCE = {F64: 1e-11, F32: 2e-5, F16: 4e-3, BF16: 3e-2, torch.bool: 0, torch.int64: 0, torch.int32: 0}


@contextlib.contextmanager
def fused() -> Iterator[None]:
    moai.sync()
    _C.shut_down()
    _C.configure_devices("fused", 1, (), -1, "")
    try:
        yield
    finally:
        moai.configure(devices="cpu", plan="fastest")


def groups(dump: str) -> list[str]:
    """The graphs that fused nodes of a dump stand for."""
    quoted = re.findall(r'moai\.fused\("((?:[^"\\]|\\.)*)"', dump)
    return [text.encode().decode("unicode_escape") for text in quoted]


def compiled_by_nvrtc(text: str) -> str:
    """Nothing, or what NVRTC says against it."""
    library = ctypes.CDLL(str(LIBRARY))
    library.moai_compile_cuda.restype = ctypes.c_int64
    log = ctypes.create_string_buffer(4096)
    size = library.moai_compile_cuda(text.encode(), b"sm_90", log, ctypes.c_size_t(4096))
    return "" if size > 0 else log.value.decode()


Program = Callable[..., list[torch.Tensor]]


def check(program: Program, operands: list[torch.Tensor], *, members: int = 2) -> None:
    """The program's results are the CPU's, and groups of so many ops at least took part in them."""
    want = program(*operands)
    with fused():
        got = program(*(x.to("moai") for x in operands))
        moai.sync()
        dump = moai.dump()
        got = [one.cpu() for one in got]
    found = groups(dump)
    assert max((len(re.findall(r" = (?:!bw )?aten\.", text)) for text in found), default=0) >= members, dump
    for one, wanted in zip(got, want, strict=True):
        assert (one.dtype, one.shape, one.stride()) == (wanted.dtype, wanted.shape, wanted.stride())
        tolerance = TOLERANCE[one.dtype]
        torch.testing.assert_close(one, wanted, rtol=tolerance, atol=tolerance, equal_nan=True)
    if LIBRARY.exists():
        for text in found:
            assert compiled_by_nvrtc(_C.kernel_text(text, True)) == ""


def rows(*sizes: int, dtype: torch.dtype = F32) -> torch.Tensor:
    return torch.randn(sizes, dtype=F64).to(dtype)


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> list[torch.Tensor]:
    return [F.silu(gate) * up]


def swiglu_backward(gate: torch.Tensor, up: torch.Tensor) -> list[torch.Tensor]:
    gate, up = gate.detach().requires_grad_(), up.detach().requires_grad_()
    (F.silu(gate) * up).sum().backward()
    return [gate.grad, up.grad]


def rotary(x: torch.Tensor, angle: torch.Tensor) -> list[torch.Tensor]:
    a, b = x.chunk(2, dim=-1)
    cos, sin = angle.cos(), angle.sin()
    return [torch.cat((a * cos - b * sin, b * cos + a * sin), -1)]


def rms_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
    x = x + residual
    wide = x if x.dtype == F64 else x.float()
    return [(wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * weight, x]


def layer_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
    x = x + residual
    return [F.layer_norm(x, weight.shape, weight, weight * 0.5) * 2, x]


def softmax(x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    return [torch.softmax(x * 0.3 + y, -1) - 1, torch.log_softmax(x - y, -1)]


def softmax_backward(x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    x = x.detach().requires_grad_()
    (torch.softmax(x * 0.3, -1) * y + torch.log_softmax(x * 2, -1) * y).sum().backward()
    return [x.grad]


def gelus(x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    x = x.detach().requires_grad_()
    out = F.gelu(x * y) + F.gelu(x, approximate="tanh")
    out.sum().backward()
    return [out.detach(), x.grad]


def over_rows(x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    z = x * y
    return [z.sum(-1), z.amax(-1, keepdim=True) - z, (z.mean(-1) + 1).sqrt(), z.amin(-1) * 2]


def comparisons(x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    chosen = (x > y) & ~(x <= 0.25) | (y == x)
    return [
        chosen,
        torch.where(chosen, x, y * 2),
        (x * 3).masked_fill(chosen, -1.5),
        x.clamp(-0.5, 0.7) + y.clamp(min=0),
    ]


def casts(x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    return [(x * 4).long() + 1, (y * 100).int() * 2, (x > 0).to(x.dtype) * y, (x + y).half().float() * 3]


PROGRAMS: dict[str, tuple[Program, list[torch.Size]]] = {
    "swiglu": (swiglu, [(6, 10), (6, 10)]),
    "swiglu backward": (swiglu_backward, [(6, 10), (6, 10)]),
    "rotary": (rotary, [(2, 3, 5, 8), (5, 4)]),
    "rms_norm": (rms_norm, [(4, 3, 16), (4, 3, 16), (16,)]),
    "layer_norm": (layer_norm, [(4, 3, 16), (4, 3, 16), (16,)]),
    "layer_norm of two dims": (layer_norm, [(4, 3, 5), (4, 3, 5), (3, 5)]),
    "softmax": (softmax, [(3, 7, 11), (7, 11)]),
    "softmax backward": (softmax_backward, [(3, 7, 11), (7, 11)]),
    "gelus": (gelus, [(5, 9), (9,)]),
    "over rows": (over_rows, [(5, 4, 9), (5, 4, 1)]),
    "comparisons": (comparisons, [(5, 9), (9,)]),
    "casts": (casts, [(5, 9), (5, 9)]),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_common_groups(name: str) -> None:
    program, sizes = PROGRAMS[name]
    check(program, [rows(*size) for size in sizes])


@pytest.mark.parametrize("dtype", [F64, F16, BF16])
@pytest.mark.parametrize("name", ["rms_norm", "gelus"])
def test_common_groups_of_other_types(name: str, dtype: torch.dtype) -> None:
    program, sizes = PROGRAMS[name]
    check(program, [rows(*size, dtype=dtype) for size in sizes])


def test_infinities_and_nans_go_through() -> None:
    x = torch.tensor([[float("nan"), 1, -float("inf"), float("inf")], [0.0, -0.0, 1e-40, 3e38]])
    check(lambda x: [(x * 2).clamp(-1, 1), x.amax(-1) + 1, torch.maximum(x * 1.5, -x), F.relu(x) * 2], [x])


def row_norms_and_products(x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    return [(x - x.amax(-1, keepdim=True)) * y, x.sum(-1) * 2, (x > y) & (y > 0)]


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize(("begin", "columns"), [(0, 64), (1, 64), (16, 37), (0, 8)])
def test_where_memory_begins_and_rows_end_changes_nothing(
    begin: int, columns: int, dtype: torch.dtype
) -> None:
    """See Note [Packs]: several elements at a time, where all lie so, and one by one elsewhere."""

    def program(x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
        x = x.as_strided((6, columns), (80, 1), begin)
        # A kernel without rows, one with, and one that sees the same row again and again.
        return [(x * y).relu(), *row_norms_and_products(x, y), (x * y[:1]) - y[0]]

    check(program, [rows(600, dtype=dtype), rows(6, columns, dtype=dtype)])


UNARY = ["neg", "exp", "sqrt", "abs", "sin", "cos", "tanh", "sigmoid", "relu", "reciprocal", "rsqrt", "erf"]
BINARY = ["add", "sub", "mul", "div", "maximum", "minimum"]


def random_operand(rng: random.Random, sizes: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Broadcast in some dims, and transposed, strided or shifted in memory."""
    sizes = tuple(1 if rng.random() < 0.2 else size for size in sizes)[rng.choice([0, 0, 0, 1]) :]
    how = rng.randrange(4)
    if how == 0 or not sizes:
        return rows(*sizes, dtype=dtype)
    if how == 1:
        return rows(*reversed(sizes), dtype=dtype).permute(*reversed(range(len(sizes))))
    if how == 2:
        return rows(*sizes[:-1], sizes[-1] * 2, dtype=dtype)[..., ::2]
    return rows(*sizes[:-1], sizes[-1] + 3, dtype=dtype)[..., 3:]


@pytest.mark.parametrize("seed", range(6))
def test_random_groups(seed: int) -> None:
    rng = random.Random(seed)
    dtype = F64  # in f32 a long program says little
    sizes = tuple(rng.randint(1, 7) for _ in range(rng.randint(1, 4)))
    operands = [random_operand(rng, sizes, dtype) for _ in range(3)] + [rows(*sizes, dtype=dtype)]
    script = [
        (rng.random(), rng.choice(UNARY), rng.choice(BINARY), rng.random(), rng.random()) for _ in range(10)
    ]

    def program(*given: torch.Tensor) -> list[torch.Tensor]:
        whole = [given[-1] * 0.5]
        small = list(given)
        for kind, unary, binary, first, second in script:
            x = whole[int(first * len(whole))]
            if kind < 0.4:
                whole.append(
                    getattr(torch, unary)(
                        x.abs() + 0.1 if unary in ("sqrt", "rsqrt", "reciprocal") else x.clamp(-3, 3)
                    )
                )
            elif kind < 0.8:
                other = small[int(second * len(small))]
                whole.append(getattr(torch, binary)(x, other.abs() + 0.5 if binary == "div" else other))
            elif kind < 0.9:
                whole.append(x - x.mean(-1, keepdim=True))
            else:
                whole.append(torch.softmax(x, -1))
        return whole[-3:]

    check(program, operands)


def test_zeros_keep_their_signs_and_bounds_that_are_no_numbers_are_told() -> None:
    """As ATen has it: abs of -0 is 0; a bound that is no number makes the result none."""
    x = torch.tensor([-0.0, 0.0, -2.0, 3.0, float("nan")], dtype=F64)

    def program(x: torch.Tensor) -> list[torch.Tensor]:
        return [1 / x.abs(), (x * 2).clamp(float("nan"), 1.0), (x * 2).clamp(min=-1.0, max=float("nan"))]

    check(program, [x])


def test_training_gives_the_same_numbers() -> None:
    def losses(device: str) -> list[float]:
        torch.manual_seed(0)
        model = Gpt(layers=1).double().to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        found = []
        for step in range(3):
            ids = torch.randint(37, (4, 7), generator=torch.Generator().manual_seed(step)).to(device)
            loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    with fused():
        got = losses("moai")
    assert got == pytest.approx(losses("cpu"), rel=1e-10)


def test_numbers_of_a_step_cause_no_new_kernel() -> None:
    with fused():
        x = torch.ones(3, device="moai")
        for step in range(4):
            before = moai.stats()["compiles"]
            y = (x * (0.5 + step) + step).exp()
            assert y.tolist() == pytest.approx([torch.tensor(0.5 + 2.0 * step).exp().item()] * 3, rel=1e-6)
        assert moai.stats()["compiles"] == before


def test_where_a_kernel_does_not_compile_atens_ops_run_and_one_line_says_so(tmp_path: Path) -> None:
    """`c++` is one that refuses."""
    refuses = tmp_path / "c++"
    refuses.write_text("#!/bin/sh\necho this compiler refuses >&2\nexit 1\n")
    refuses.chmod(0o755)
    script = """
        import torch, moai
        moai._C.configure_devices("fused", 1, (), -1, "")
        x = torch.arange(4.0).to("moai")
        print(((x * 2 + 1).exp() - 1).sum().item(), ((x - 3) * x).tolist())
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        env={"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
    )
    x = torch.arange(4.0)
    assert run.stdout == f"{((x * 2 + 1).exp() - 1).sum().item()} {((x - 3) * x).tolist()}\n", run.stderr
    assert run.stderr.count("ATen's ops run in its place") == 1
    assert "this compiler refuses" in run.stderr
