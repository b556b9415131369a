"""Arguments of the calls in rule_cases.py, and what ops compute that ATen has no function for."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import torch

A = torch.ops.aten


def T(*sizes: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:  # noqa: N802  a row's shorthand
    if dtype is torch.bool:
        return torch.rand(sizes) > 0.5
    return torch.randn(sizes, dtype=dtype)


def I(high: int, *sizes: int) -> torch.Tensor:  # noqa: E743, N802  indices below `high`
    return torch.randint(0, high, sizes)


def P(*sizes: int) -> torch.Tensor:  # noqa: N802  positive
    return torch.rand(sizes, dtype=torch.float64) + 0.1


def one_layer_norm() -> tuple:
    x, w, b = T(3, 5, 6), T(6), T(6)
    _, mean, rstd = A.native_layer_norm(x, [6], w, b, 1e-5)
    return T(3, 5, 6), x, [6], mean, rstd, w, b, [True, True, True]


def attention(causal: bool, mask: torch.Tensor | None = None, heads: int = 4) -> tuple:
    """The arguments of its backward. Of `heads` heads of keys, and 4 of queries."""
    q, k, v = T(2, 4, 5, 6), T(2, heads, 5 if causal else 7, 6), T(2, heads, 5 if causal else 7, 6)
    forward = (q, k, v, 0.0, causal)
    out, lse = A._scaled_dot_product_flash_attention_for_cpu(*forward, attn_mask=mask)
    return T(2, 4, 5, 6), q, k, v, out, lse, 0.0, causal, mask


def attention_forward(*args: object) -> tuple:
    _, q, k, v, _, _, dropout, causal, mask = attention(*args)
    return q, k, v, dropout, causal, mask


def batch_norm(training: bool) -> tuple:
    x, w, b, mean, var = T(3, 6, 4, 2), T(6), T(6), T(6), P(6)
    return x, w, b, mean, var, training, 0.1, 1e-5


def batch_norm_backward(training: bool) -> tuple:
    x, w, b, mean, var, *_ = batch_norm(training)
    _, save_mean, save_invstd = A.native_batch_norm(x, w, b, mean, var, training, 0.1, 1e-5)
    return T(3, 6, 4, 2), x, w, mean, var, save_mean, save_invstd, training, 1e-5, [True, True, True]


def group_norm_backward() -> tuple:
    x, w = T(3, 6, 4), T(6)
    _, mean, rstd = A.native_group_norm(x, w, T(6), 3, 6, 4, 3, 1e-5)
    return T(3, 6, 4), x, mean, rstd, w, 3, 6, 4, 3, [True, True, True]


def nll_backward(reduction: int, weights: torch.Tensor | None = None) -> tuple:
    logits, target = T(5, 7).log_softmax(1), I(7, 5)
    _, total = A.nll_loss_forward(logits, target, weights, reduction, 2)
    return (T(5) if reduction == 0 else T()), logits, target, weights, reduction, 2, total


class Reference:
    """An op that ATen has no kernel in float64 for, or that is ours: its name, its arguments' types, what it does."""

    def __init__(self, name: str, types: list[str], compute: Callable) -> None:
        self.name, self.compute = name, compute
        self._schema = SimpleNamespace(arguments=[SimpleNamespace(type=one) for one in types])

    def __str__(self) -> str:
        return self.name

    def __call__(self, *args: object) -> object:
        return self.compute(*args)


def grouped_mm(
    a: torch.Tensor,
    b: torch.Tensor,
    ends: torch.Tensor | None = None,
    bias: None = None,
    dtype: None = None,
    first: int = 0,
) -> torch.Tensor:
    """Groups run from `first` to each of `ends`; what is outside of them is zero."""
    if ends is None:
        return a @ b
    bounds = [first, *ends.tolist()]
    groups = [slice(start, end) for start, end in zip(bounds, bounds[1:], strict=False)]
    if a.dim() == 2 and b.dim() == 2:
        return torch.stack([a[:, one] @ b[one] for one in groups])
    out = a.new_zeros(a.size(-2), b.size(-1))
    for g, one in enumerate(groups):
        if b.dim() == 3:
            out[one] = a[one] @ b[g]
        else:
            out[:, one] = a[g] @ b[:, one]
    return out


def rms_norm(x: torch.Tensor, sizes: list[int], weight: torch.Tensor, eps: float) -> tuple:
    dims = tuple(range(-len(sizes), 0))
    rstd = (x.square().mean(dims, keepdim=True) + eps).rsqrt()
    return x * rstd * weight, rstd


def rms_norm_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    sizes: list[int],
    rstd: torch.Tensor,
    weight: torch.Tensor,
    mask: list,
) -> tuple:
    dims = tuple(range(-len(sizes), 0))
    normed, inner = x * rstd, grad * weight
    of_x = rstd * (inner - normed * (inner * normed).mean(dims, keepdim=True))
    return of_x, (grad * normed).sum(tuple(range(x.dim() - len(sizes))))


def one_rms_norm() -> tuple:
    x, w = T(3, 5, 6), T(6)
    return T(3, 5, 6), x, [6], rms_norm(x, [6], w, 1e-5)[1], w, [True, True]


TENSOR, LIST, INT, FLAGS = "Tensor", "List[int]", "int", "List[bool]"
GROUPED = Reference("aten._grouped_mm", [TENSOR, TENSOR, "Optional[Tensor]", TENSOR, INT], grouped_mm)
RMS_NORM = Reference("aten._fused_rms_norm", [TENSOR, LIST, TENSOR, "float"], rms_norm)
RMS_NORM_BACKWARD = Reference(
    "aten._fused_rms_norm_backward", [TENSOR, TENSOR, LIST, TENSOR, TENSOR, FLAGS], rms_norm_backward
)
SLICE = Reference(
    "moai.slice",
    [TENSOR, INT, INT, INT, INT],
    lambda x, dim, start, length, step: x[
        (slice(None),) * dim + (slice(start, start + length * step, step),)
    ].clone(),
)
RESHAPE = Reference("moai.reshape", [TENSOR, LIST], lambda x, sizes: x.reshape(sizes).clone())
PERMUTE = Reference("moai.permute", [TENSOR, LIST], lambda x, order: x.permute(order).contiguous())
EXPAND = Reference("moai.expand", [TENSOR, LIST], lambda x, sizes: x.expand(sizes).clone())


def ends(*ends: int) -> torch.Tensor:
    return torch.tensor(ends, dtype=torch.int32)


def max_pool_backward(x: torch.Tensor, *how) -> tuple:
    out, at = A.max_pool2d_with_indices(x, *how)
    return torch.randn_like(out), x, *how, at


def avg_pool_backward(x: torch.Tensor, *how) -> tuple:
    return torch.randn_like(A.avg_pool2d(x, *how)), x, *how


def conv(
    *sizes: int, filters: tuple[int, ...], stride=1, padding=0, dilation=1, groups=1, bias=True
) -> tuple:
    """Numbers are of the first dim of space; the others have stride and dilation 1, and no padding."""
    weight, rest = T(*filters), len(sizes) - 3
    lists = [stride, *[1] * rest], [padding, *[0] * rest], [dilation, *[1] * rest]
    return T(*sizes), weight, T(filters[0]) if bias else None, *lists, False, [0] * (rest + 1), groups


def conv_backward(*sizes: int, mask: tuple[bool, ...] = (True, True, True), **how) -> tuple:
    x, weight, _, *rest = conv(*sizes, **how)
    grad = torch.randn_like(A.convolution(x, weight, None, *rest))
    return grad, x, weight, [weight.size(0)], *rest, list(mask)


def nll2d_backward(reduction: int) -> tuple:
    logits, target = T(3, 7, 4, 2).log_softmax(1), I(7, 3, 4, 2)
    _, total = A.nll_loss2d_forward(logits, target, None, reduction, 2)
    return (T(3, 4, 2) if reduction == 0 else T()), logits, target, None, reduction, 2, total
