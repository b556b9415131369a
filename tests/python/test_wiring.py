"""Traces are told apart by what they are, and by nothing else."""

from __future__ import annotations

import moai
import pytest
import torch


def test_equal_ops_wired_otherwise_are_other_traces():
    x, y = torch.tensor(2.0, device="moai"), torch.tensor(5.0, device="moai")
    for _ in range(3):
        assert ((x - y) * x).item() == -6 and ((x - y) * y).item() == -15 and ((y - x) * x).item() == 6


def test_numbers_and_offsets_do_not_make_traces():
    data = torch.arange(64.0, device="moai")
    for i in range(20):
        assert (data[i : i + 4] * (i + 0.5) + i).sum().item() == pytest.approx(
            sum((k * (i + 0.5) + i) for k in range(i, i + 4))
        )
        if i == 3:
            before = moai.stats()
    after = moai.stats()
    assert (after["traces"], after["compiles"]) == (before["traces"], before["compiles"])


def test_a_storage_of_another_layout_is_another_trace():
    whole, row = torch.arange(4.0, device="moai"), torch.arange(12.0, device="moai")
    column = torch.arange(12.0, device="moai").view(4, 3)
    for _ in range(3):
        for t, wanted in ((whole, [0, 1, 2, 3]), (row[4:8], [4, 5, 6, 7]), (column[:, 1], [1, 4, 7, 10])):
            assert (t * 1).tolist() == wanted


def test_an_op_that_fails_leaves_nothing_in_the_trace():
    x, y = torch.arange(4.0, device="moai"), torch.arange(12.0, device="moai")

    def run(first, second, fail):
        if fail:
            with pytest.raises(RuntimeError):
                torch.bmm(first, first)
        sums = (second * 2).sum(), (first - 1).sum()
        return [s.item() for s in sums]

    for _ in range(3):
        for fail in (True, False):
            assert run(x, y[2:5], fail) == [18, 2]
            assert run(y[4:8], x[1:], fail) == [12, 18]
            assert run(y[:4], x, fail) == [12, 2]


def test_a_static_argument_makes_another_trace_and_a_number_does_not():
    x = torch.arange(6.0, device="moai").view(2, 3)
    for dim, wanted in ((0, [3, 5, 7]), (1, [3, 12]), (0, [3, 5, 7])):
        assert x.sum(dim).tolist() == wanted
    for power, wanted in ((2, 4.0), (3, 8.0), (0.5, 2**0.5)):
        assert (torch.tensor(2.0, device="moai") ** power).item() == pytest.approx(wanted)
    for number in (0, 1, 1.0, True, -1, 1e-8, float("inf")):
        assert (torch.tensor(2.0, device="moai") + number).item() == pytest.approx(2.0 + number)
