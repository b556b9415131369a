"""What NCCL is told, and what it says: where libmoai_cuda is built with it. With a GPU a group of one runs."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import moai
import pytest
import torch
from moai import _C

LIBRARY = Path(moai.__file__).with_name("libmoai_cuda.so")


def nccl() -> ctypes.CDLL | None:
    library = ctypes.CDLL(str(LIBRARY)) if LIBRARY.exists() else None
    return library if hasattr(library, "moai_nccl_error") else None


pytestmark = pytest.mark.skipif(
    nccl() is None, reason="libmoai_cuda is not built, or without NCCL, whose headers were not found"
)

# Of nccl.h, which keeps them for good.
TYPES = {"i8": 0, "u8": 1, "i32": 2, "u32": 3, "i64": 4, "u64": 5, "f16": 6, "f32": 7, "f64": 8, "bf16": 9}
SUM, PRODUCT, MAX, MIN, MEAN = range(5)  # ours, in order; NCCL's are the same


def reduction(dtype: torch.dtype, reduce: int) -> tuple[int, int, int]:
    """NCCL's type and operator, and how many numbers of it an element is; 0 where there are none."""
    library, type_, op = nccl(), ctypes.c_int(-1), ctypes.c_int(-1)
    assert library is not None
    parts = library.moai_nccl_reduction(NUMBERS[dtype], reduce, ctypes.byref(type_), ctypes.byref(op))
    return type_.value, op.value, parts


NUMBERS = {
    torch.uint8: 0, torch.int8: 1, torch.int16: 2, torch.int32: 3, torch.int64: 4, torch.float16: 5,
    torch.float32: 6, torch.float64: 7, torch.complex64: 9, torch.bool: 11, torch.bfloat16: 15,
    torch.float8_e4m3fn: 24,
}  # fmt: skip


@pytest.mark.parametrize(
    ("dtype", "reduce", "want"),
    [
        (torch.float32, SUM, (TYPES["f32"], SUM, 1)),
        (torch.bfloat16, MEAN, (TYPES["bf16"], MEAN, 1)),
        (torch.float16, MAX, (TYPES["f16"], MAX, 1)),
        (torch.float64, PRODUCT, (TYPES["f64"], PRODUCT, 1)),
        (torch.int64, MIN, (TYPES["i64"], MIN, 1)),
        (torch.int32, SUM, (TYPES["i32"], SUM, 1)),
        (torch.int8, SUM, (TYPES["i8"], SUM, 1)),
        (torch.uint8, MAX, (TYPES["u8"], MAX, 1)),
        (torch.bool, SUM, (TYPES["u8"], MAX, 1)),  # "or"
        (torch.bool, PRODUCT, (TYPES["u8"], MIN, 1)),  # "and"
        (torch.complex64, SUM, (TYPES["f32"], SUM, 2)),
        (torch.complex64, PRODUCT, (-1, -1, 0)),
        (torch.int16, SUM, (-1, -1, 0)),
        (torch.float8_e4m3fn, SUM, (-1, -1, 0)),
    ],
)
def test_reductions_are_nccls(dtype: torch.dtype, reduce: int, want: tuple[int, int, int]) -> None:
    assert reduction(dtype, reduce) == want


def error(result: int, last: bytes) -> str:
    library, text = nccl(), ctypes.create_string_buffer(1000)
    assert library is not None
    doing = b"runs all_reduce(sum, f32[8])"
    library.moai_nccl_error(result, doing, last, text, ctypes.c_size_t(1000))
    return text.value.decode()


def test_errors_say_what_was_done_what_nccl_says_and_what_helps() -> None:
    remote = error(6, b"socket of rank 3 closed")
    assert re.search(r"NCCL fails while it runs all_reduce\(sum, f32\[8\]\): remote process exited", remote)
    assert "it said last: socket of rank 3 closed" in remote
    assert "would help: look at the other devices' errors" in remote
    internal = error(3, b"")
    assert "internal error" in internal and "said last" not in internal and "NCCL_DEBUG=WARN" in internal


@pytest.mark.gpu
@pytest.mark.skipif(bool(_C.why_no_gpu()), reason=f"no GPU for moai: {_C.why_no_gpu()}")
def test_a_group_of_one_gives_what_it_was_given() -> None:
    library, log = nccl(), ctypes.create_string_buffer(4096)
    assert library is not None
    given = (ctypes.c_float * 1000)(*range(1000))
    got = (ctypes.c_float * 1000)()
    status = library.moai_nccl_alone(given, got, ctypes.c_int64(1000), log, ctypes.c_size_t(4096))
    assert status == 0, log.value.decode()
    assert list(got) == list(given)
