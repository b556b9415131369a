"""Torch's databases against the CPU: a share that changes with the commit, or all (MOAI_TEST_FULL=1)."""

from __future__ import annotations

from pathlib import Path

import moai
import moduleinfo
import opinfo
import pytest
import torch
from comparing import Outcome, differing_error
from opinfo_known import (
    DEPENDS_ON_DATA,
    KNOWN,
    ON_CPU,
    TOLERANCES,
    UNDEFINED,
    depends_on_data,
    known,
)
from sampling import is_chosen
from torch import nn

SHARE = 10


def entries(pairs: list[tuple[str, str]]) -> list:
    """This commit's share of them, and all that are known to differ."""

    def entry(name: str, dtype: str):
        why = known(name, dtype)
        marks = [pytest.mark.xfail(reason=why, strict=True)] if why else []
        return pytest.param(name, dtype, marks=marks, id=f"{name}:{dtype}")

    return [entry(*pair) for pair in pairs if is_chosen(pair, SHARE) or known(*pair)]


def is_as_on_the_cpu(outcome: Outcome) -> None:
    assert outcome.equal, outcome.report()
    assert outcome.recorded or depends_on_data(outcome.name, outcome.dtype), outcome.report()


@pytest.mark.parametrize(("name", "dtype"), entries(opinfo.EVERYTHING))
def test_op(name, dtype):
    is_as_on_the_cpu(opinfo.check(name, dtype))


@pytest.mark.parametrize(("name", "dtype"), entries(moduleinfo.MODULE_PAIRS))
def test_module(name, dtype):
    is_as_on_the_cpu(moduleinfo.check_module(name, dtype))


@pytest.mark.parametrize(("name", "dtype"), entries(moduleinfo.OPTIMIZER_PAIRS))
def test_optimizer(name, dtype):
    is_as_on_the_cpu(moduleinfo.check_optimizer(name, dtype))


def test_tables_name_entries_of_the_databases():
    pairs = [*opinfo.EVERYTHING, *moduleinfo.MODULE_PAIRS, *moduleinfo.OPTIMIZER_PAIRS]
    entries = {name for name, _ in pairs} | {f"{name} {dtype}" for name, dtype in pairs}
    named = set(KNOWN) | set(DEPENDS_ON_DATA) | set(UNDEFINED) | set(TOLERANCES) | ON_CPU
    assert named <= entries


def test_the_page_says_what_the_tables_say():
    page = (Path(__file__).parents[2] / "docs" / "coverage.md").read_text()
    differ, _, depend = page.partition("## Dependent on data")
    for table, section in ((KNOWN, differ), (DEPENDS_ON_DATA, depend)):
        for name, why in table.items():
            entry, _, dtype = name.partition(" ")
            rows = [row for row in section.splitlines() if row.startswith(f"| {entry} |")]
            assert any(dtype in row and f"| {why} |" in row for row in rows), name


def test_a_wrong_value_is_seen():
    case = next(opinfo.cases_of(opinfo.OPS["add"], torch.float32))
    ours, theirs = opinfo.evaluate(case, "moai", seed=7), opinfo.evaluate(case, "cpu", seed=7)
    assert not list(opinfo.differences(case, ours, theirs))
    theirs.tree = theirs.tree + 1
    assert list(opinfo.differences(case, ours, theirs))


def test_a_changed_input_is_seen():
    case = next(opinfo.cases_of(opinfo.OPS["add"], torch.float32))
    ours, theirs = opinfo.evaluate(case, "moai", seed=7), opinfo.evaluate(case, "cpu", seed=7)
    ours.inputs[0].add_(1)
    assert "input 0" in next(opinfo.differences(case, ours, theirs))


def test_another_error_is_seen():
    wanted = ValueError("lies on cpu:\nbadly")
    assert not differing_error(ValueError("lies on moai:0: badly (while moai ran it)"), wanted)
    for error in (None, TypeError("lies on moai:0: badly"), ValueError("lies on moai:0: well")):
        assert differing_error(error, wanted)


def test_an_op_at_once_is_seen():
    assert opinfo.check("nonzero", "float32").reasons["aten.nonzero"] > 0


# ---- What the database does not ask


def test_an_op_without_results_raises_when_read():
    moai.sync()
    before = moai.stats()
    inverse = torch.linalg.inv(torch.zeros(3, 3, device="moai"))
    torch._assert_async(torch.ones((), device="moai"), "true")
    assert moai.stats()["cuts"] == before["cuts"]
    with pytest.raises(torch.linalg.LinAlgError, match="singular"):
        inverse.cpu()
    torch._assert_async(torch.zeros((), device="moai"), "false")
    with pytest.raises(RuntimeError, match="false"):
        moai.sync()


def sparse_gradient(module: type) -> None:
    embedding = module(4, 3, sparse=True).to("moai")
    embedding(torch.tensor([[1, 2]], device="moai")).sum().backward()


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda t: t.to_sparse().to("moai"), id="coo"),
        pytest.param(lambda t: t.to_sparse_csr().to("moai"), id="csr"),
        pytest.param(lambda t: t.to("moai").to_sparse(), id="to_sparse"),
        pytest.param(lambda t: torch.nested.nested_tensor([t]).to("moai"), id="nested"),
        pytest.param(lambda t: torch.nested.nested_tensor([t.to("moai")]), id="nested_of_ours"),
        pytest.param(lambda t: torch.nested.nested_tensor([t], device="moai") * 2, id="nested_there"),
        pytest.param(lambda t: torch.quantize_per_tensor(t, 1.0, 0, torch.qint8).to("moai"), id="quantized"),
        pytest.param(lambda t: torch.quantize_per_tensor(t.to("moai"), 1.0, 0, torch.qint8), id="quantize"),
        pytest.param(lambda t: torch.zeros(3, dtype=torch.qint8, device="moai"), id="quantized_there"),
        pytest.param(lambda t: torch.zeros(3, layout=torch.sparse_coo, device="moai"), id="coo_there"),
        pytest.param(
            lambda t: torch.sparse_csr_tensor([0, 1], [0], [1.0], (1, 1), device="moai").sum(),
            id="csr_there",
        ),
        pytest.param(lambda t: t.to_sparse() @ t.to("moai"), id="coo_operand"),
        pytest.param(lambda t: t.to("moai").to_mkldnn(), id="mkldnn"),
        pytest.param(lambda t: sparse_gradient(nn.Embedding), id="embedding"),
        pytest.param(lambda t: sparse_gradient(nn.EmbeddingBag), id="embedding_bag"),
    ],
)
def test_what_is_not_strided_is_refused(make):
    with pytest.raises(NotImplementedError, match=r"moai holds strided tensors only[^;]*; \w+"):
        make(torch.eye(3))


def test_a_refused_number_is_not_remembered():
    x = torch.empty(7, 3, device="moai")
    with pytest.raises(RuntimeError, match="std >= 0.0, but found std -1$"):
        x.normal_(0, -1)
    before = moai.stats()["ops_at_once"]
    x.normal_(0, 1)
    assert moai.stats()["ops_at_once"] == before


@pytest.mark.parametrize("pick", [torch.max, torch.min, torch.median, torch.nanmedian])
def test_gradient_of_a_picked_element_reads_nothing(pick):
    x = torch.tensor([1.0, 3.0, 3.0, 1.0, 2.0])
    ours, theirs = x.to("moai").requires_grad_(), x.clone().requires_grad_()
    before = moai.stats()
    (grad,) = torch.autograd.grad(pick(ours), ours)
    after = moai.stats()
    assert (after["cuts"], after["ops_at_once"]) == (before["cuts"], before["ops_at_once"])
    assert torch.equal(grad.cpu(), torch.autograd.grad(pick(theirs), theirs)[0])
    assert torch.func.grad(pick)(ours.detach()).shape == x.shape
    assert torch.func.jvp(pick, (ours.detach(),), (ours.detach(),))[1].shape == ()


# ---- Random numbers: the database's samples are too small to say more than sizes and dtypes

N = 40_000


def sampled(draw, device):
    torch.manual_seed(3)
    return draw(torch.empty(N, device=device)).double().cpu()


@pytest.mark.parametrize(
    "draw",
    [
        pytest.param(lambda t: t.uniform_(-1, 3), id="uniform_"),
        pytest.param(lambda t: t.normal_(1, 2), id="normal_"),
        pytest.param(lambda t: t.exponential_(1.5), id="exponential_"),
        pytest.param(lambda t: t.geometric_(0.3), id="geometric_"),
        pytest.param(lambda t: t.log_normal_(0.1, 0.3), id="log_normal_"),
        pytest.param(lambda t: t.cauchy_(1, 2).atan(), id="cauchy_"),
        pytest.param(lambda t: t.random_(3, 9), id="random_.from"),
        pytest.param(lambda t: t.random_(9), id="random_.to"),
        pytest.param(lambda t: t.random_() / 2**24, id="random_"),
        pytest.param(lambda t: t.bernoulli_(0.3), id="bernoulli_.float"),
        pytest.param(lambda t: torch.bernoulli(torch.full_like(t, 0.7)), id="bernoulli"),
        pytest.param(lambda t: torch.bernoulli(torch.full_like(t, 0.7), out=t), id="bernoulli.out"),
        pytest.param(
            lambda t: torch.normal(torch.full_like(t, 2.0), 0.5, out=t), id="normal.Tensor_float_out"
        ),
        pytest.param(lambda t: torch.normal(2.0, torch.full_like(t, 0.5)), id="normal.float_Tensor"),
        pytest.param(lambda t: torch.normal(2.0, 0.5, (N,), out=t), id="normal.float_float_out"),
        pytest.param(lambda t: torch.poisson(torch.full_like(t, 3.0)), id="poisson"),
        pytest.param(lambda t: torch.binomial(torch.full_like(t, 9), torch.full_like(t, 0.4)), id="binomial"),
        pytest.param(lambda t: torch._standard_gamma(torch.full_like(t, 2.0)), id="_standard_gamma"),
        pytest.param(
            lambda t: torch._sample_dirichlet(torch.full_like(t, 2.0).view(-1, 4)).flatten(),
            id="_sample_dirichlet",
        ),
        pytest.param(lambda t: torch.multinomial(torch.ones(8, device=t.device), N, True), id="multinomial"),
        pytest.param(lambda t: torch.nn.functional.dropout(torch.ones_like(t), 0.3), id="native_dropout"),
        pytest.param(lambda t: torch.rrelu(torch.full_like(t, -1.0), 0.1, 0.5, True), id="rrelu_with_noise"),
        pytest.param(lambda t: torch.randperm(N, device=t.device)[: N // 2], id="randperm"),
        pytest.param(lambda t: torch.rand(N, device=t.device), id="rand"),
        pytest.param(lambda t: torch.randn(N, device=t.device), id="randn"),
        pytest.param(lambda t: torch.randint(2, 7, (N,), device=t.device), id="randint"),
    ],
)
def test_sampler_has_the_cpus_distribution(draw):
    ours, theirs = sampled(draw, "moai"), sampled(draw, "cpu")
    assert torch.equal(ours, sampled(draw, "moai"))
    error = 5 * theirs.std() * (2 / len(ours)) ** 0.5
    torch.testing.assert_close(ours.mean(), theirs.mean(), atol=error.item(), rtol=0)
    quantiles = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)
    for q in quantiles:
        edge = theirs.quantile(q)
        for ours_share, share in (
            ((ours < edge).double().mean(), (theirs < edge).double().mean()),
            ((ours <= edge).double().mean(), (theirs <= edge).double().mean()),
        ):
            torch.testing.assert_close(ours_share, share, atol=5 * (0.5 / len(ours)) ** 0.5, rtol=0)
