"""One row for each op that has a rule: calls of it, small enough to be run in parts.

A row is (op, arguments); `T(...)` makes a float64 tensor. Sizes that do not divide by 2, 3 or 4 are on purpose.
"""

from __future__ import annotations

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


def attention(causal: bool, mask: torch.Tensor | None = None) -> tuple:
    q, k, v = T(2, 4, 5, 6), T(2, 4, 5 if causal else 7, 6), T(2, 4, 5 if causal else 7, 6)
    forward = (q, k, v, 0.0, causal)
    out, lse = A._scaled_dot_product_flash_attention_for_cpu(*forward, attn_mask=mask)
    return T(2, 4, 5, 6), q, k, v, out, lse, 0.0, causal


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


def nll_backward(reduction: int) -> tuple:
    logits, target = T(5, 7).log_softmax(1), I(7, 5)
    _, total = A.nll_loss_forward(logits, target, None, reduction, 2)
    return (T(5) if reduction == 0 else T()), logits, target, None, reduction, 2, total


def adamw() -> tuple:
    return [T(5, 6)], [T(5, 6)], [T(5, 6)], [P(5, 6)], [], [torch.tensor(3.0)]


ROWS = [
    # Contractions
    (A.mm.default, lambda: (T(5, 6), T(6, 7))),
    (A.bmm.default, lambda: (T(3, 5, 6), T(3, 6, 4))),
    (A.addmm.default, lambda: (T(7), T(5, 6), T(6, 7))),
    (A.addmm.default, lambda: (T(5, 7), T(5, 6), T(6, 7))),
    (A.baddbmm.default, lambda: (T(3, 5, 4), T(3, 5, 6), T(3, 6, 4))),
    (A.addmv.default, lambda: (T(5), T(5, 6), T(6))),
    (A.addr.default, lambda: (T(5, 6), T(5), T(6))),
    (A.mv.default, lambda: (T(5, 6), T(6))),
    (A.dot.default, lambda: (T(6), T(6))),
    # Normalisation
    (A.native_layer_norm.default, lambda: (T(3, 5, 6), [6], T(6), T(6), 1e-5)),
    (A.native_layer_norm.default, lambda: (T(3, 5, 6), [5, 6], None, None, 1e-5)),
    (A.native_layer_norm_backward.default, one_layer_norm),
    (A.native_batch_norm.default, lambda: batch_norm(True)),
    (A.native_batch_norm.default, lambda: batch_norm(False)),
    (A.native_batch_norm_backward.default, lambda: batch_norm_backward(True)),
    (A.native_batch_norm_backward.default, lambda: batch_norm_backward(False)),
    (A.native_group_norm.default, lambda: (T(3, 6, 4), T(6), T(6), 3, 6, 4, 3, 1e-5)),
    (A.native_group_norm_backward.default, group_norm_backward),
    # Reductions
    (A.sum.default, lambda: (T(5, 6),)),
    (A.sum.dim_IntList, lambda: (T(3, 5, 6), [0, -1], True)),
    (A.mean.default, lambda: (T(5, 6),)),
    (A.mean.dim, lambda: (T(3, 5, 6), [1])),
    (A.amax.default, lambda: (T(3, 5, 6), [1], True)),
    (A.amin.default, lambda: (T(3, 5, 6), [0])),
    (A.max.default, lambda: (T(5, 6),)),
    (A.min.default, lambda: (T(5, 6),)),
    (A.prod.default, lambda: (T(5, 6),)),
    (A.prod.dim_int, lambda: (T(5, 6), 1)),
    (A.any.dim, lambda: (T(5, 6, dtype=torch.bool), 1)),
    (A.all.default, lambda: (T(5, 6, dtype=torch.bool),)),
    (A.max.dim, lambda: (T(3, 5, 6), 1)),
    (A.argmax.default, lambda: (T(3, 5, 6), -1)),
    (A.var.correction, lambda: (T(3, 5, 6), [1])),
    (A.linalg_vector_norm.default, lambda: (T(5, 6), 2.0)),
    (A.linalg_vector_norm.default, lambda: (T(5, 6), 1.0, [0])),
    (A.linalg_vector_norm.default, lambda: (T(5, 6), float("inf"), [1], True)),
    (A.cumsum.default, lambda: (T(3, 5, 6), 1)),
    (A.flip.default, lambda: (T(5, 6), [0])),
    (A.topk.default, lambda: (T(5, 6), 2)),
    (A.sort.default, lambda: (T(5, 6), 0)),
    (A.tril.default, lambda: (T(2, 5, 6), 1)),
    (A._softmax.default, lambda: (T(3, 5, 6), 1, False)),
    (A._log_softmax.default, lambda: (T(5, 6), 1, False)),
    (A._softmax_backward_data.default, lambda: (T(5, 6), T(5, 6).softmax(1), 1, torch.float64)),
    (A._log_softmax_backward_data.default, lambda: (T(5, 6), T(5, 6).log_softmax(1), 1, torch.float64)),
    (A._safe_softmax.default, lambda: (T(5, 6), 1)),
    # Attention
    (A._scaled_dot_product_flash_attention_for_cpu.default, lambda: attention(False)[1:4]),
    (A._scaled_dot_product_flash_attention_for_cpu.default, lambda: (*attention(True)[1:4], 0.0, True)),
    (A._scaled_dot_product_flash_attention_for_cpu_backward.default, lambda: attention(False)),
    (A._scaled_dot_product_flash_attention_for_cpu_backward.default, lambda: attention(True)),
    # Losses
    *((A.nll_loss_forward.default, lambda r=r: (T(5, 7).log_softmax(1), I(7, 5), None, r, 2)) for r in range(3)),
    *((A.nll_loss_forward.default, lambda r=r: (T(5, 7).log_softmax(1), I(7, 5), P(7), r, 2)) for r in range(3)),
    *((A.nll_loss_backward.default, lambda r=r: nll_backward(r)) for r in range(3)),
    *((A.nll_loss2d_forward.default, lambda r=r: (T(3, 7, 4, 2), I(7, 3, 4, 2), None, r, 2)) for r in range(3)),
    *((A.mse_loss.default, lambda r=r: (T(5, 6), T(5, 6), r)) for r in range(3)),
    *((A.mse_loss_backward.default, lambda r=r: (T(5, 6) if r == 0 else T(), T(5, 6), T(5, 6), r)) for r in range(3)),
    (A.binary_cross_entropy_with_logits.default, lambda: (T(5, 6), P(5, 6), None, None, 1)),
    # Indexing
    (A.embedding.default, lambda: (T(9, 6), I(9, 3, 5))),
    (A.embedding_dense_backward.default, lambda: (T(3, 5, 6), I(9, 3, 5), 9, -1, False)),
    (A.index_select.default, lambda: (T(5, 6), 1, I(6, 7))),
    (A.index_add.default, lambda: (T(5, 6), 0, I(5, 3), T(3, 6))),
    (A.gather.default, lambda: (T(5, 6), 1, I(6, 5, 3))),
    (A.scatter_add.default, lambda: (T(5, 6), 1, I(6, 5, 3), T(5, 3))),
    (A.scatter.value, lambda: (T(5, 6), 0, I(5, 2, 6), 3.0)),
    (A.index.Tensor, lambda: (T(5, 6), [I(5, 3)])),
    (A.index.Tensor, lambda: (T(3, 5, 6), [None, I(5, 2, 4)])),
    (A.index.Tensor, lambda: (T(5, 6, 4), [I(5, 3), I(6, 3)])),
    (A.index_put.default, lambda: (T(5, 6), [I(5, 3)], T(3, 6), True)),
    # Convolution
    (A.convolution.default, lambda: (T(3, 4, 8, 7), T(6, 4, 3, 3), T(6), [2, 1], [1, 1], [1, 1], False, [0, 0], 1)),
    (A.convolution.default, lambda: (T(3, 6, 9), T(6, 2, 3), T(6), [1], [1], [1], False, [0], 3)),
    (A.convolution.default, lambda: (T(3, 4, 7), T(4, 6, 3), T(6), [2], [1], [1], True, [0], 1)),
    (
        A.convolution_backward.default,
        lambda: (
            T(3, 6, 8, 7), T(3, 4, 8, 7), T(6, 4, 3, 3), [6], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True] * 3,
        ),
    ),
    (
        A.convolution_backward.default,
        lambda: (T(3, 6, 9), T(3, 6, 9), T(6, 2, 3), [6], [1], [1], [1], False, [0], 3, [True, True, False]),
    ),
    (A.max_pool2d_with_indices.default, lambda: (T(3, 4, 8, 6), [2, 2])),
    (A.avg_pool2d.default, lambda: (T(3, 4, 8, 6), [2, 2])),
    (A._adaptive_avg_pool2d.default, lambda: (T(3, 4, 8, 6), [1, 1])),
    # Making tensors
    (A.full.default, lambda: ([5, 6], 2.0)),
    (A.arange.default, lambda: (7,)),
    (A.eye.m, lambda: (5, 6)),
    # Views and what stands beside them
    (A.view.default, lambda: (T(6, 4), [2, 3, 4])),
    (A.view.default, lambda: (T(2, 3, 4), [6, 2, 2])),
    (A.view.default, lambda: (T(4, 6), [6, 4])),
    (A.view.default, lambda: (T(2, 6, 4), [2, 4, 6])),
    (A.slice_backward.default, lambda: (T(5, 3), [5, 6], 1, 3, 6, 1)),
    (A.slice_backward.default, lambda: (T(5, 4), [5, 6], 1, 1, 5, 1)),
    (A.select_backward.default, lambda: (T(5, 6), [5, 4, 6], 1, 2)),
    (A.cat.default, lambda: ([T(5, 6), T(5, 6), T(5, 6)], 1)),
    (A.cat.default, lambda: ([T(5, 6), T(3, 6)], 0)),
    (A.cat.default, lambda: ([T(0), T(2, 5, 6)], -2)),
    (A.stack.default, lambda: ([T(5, 6), T(5, 6)], -1)),
    (A.constant_pad_nd.default, lambda: (T(5, 6), [1, 2])),
    (A.repeat.default, lambda: (T(5, 6), [2, 1, 3])),
    # Pointwise: a few of each arity; the rest follow from broadcasting alike
    (A.add.Tensor, lambda: (T(5, 6), T(6))),
    (A.add.Tensor, lambda: (T(3, 5, 6), T(5, 1))),
    (A.mul.Tensor, lambda: (T(5, 6), T())),
    (A.sub.Tensor, lambda: (T(5, 1), T(6))),
    (A.where.self, lambda: (T(5, 6, dtype=torch.bool), T(6), T(5, 6))),
    (A.gelu.default, lambda: (T(5, 6),)),
    (A.gelu_backward.default, lambda: (T(5, 6), T(5, 6))),
    (A.silu_backward.default, lambda: (T(5, 6), T(5, 6))),
    (A.pow.Tensor_Scalar, lambda: (T(5, 6), 2)),
    (A.addcmul.default, lambda: (T(5, 6), T(5, 6), T(6))),
    (A.lt.Tensor, lambda: (T(5, 6), T(5, 6))),
    (A.masked_fill.Scalar, lambda: (T(5, 6), T(5, 6, dtype=torch.bool), 2.0)),
    (A._to_copy.default, lambda: (T(5, 6),)),
    (A.clamp.default, lambda: (T(5, 6), -0.5, 0.5)),
    # Optimizers, a tensor each
    (A._foreach_add.List, lambda: ([T(5, 6)], [T(5, 6)])),
    (A._foreach_mul.Tensor, lambda: ([T(5, 6)], T())),
    (A._foreach_addcdiv.Scalar, lambda: ([T(5, 6)], [T(5, 6)], [P(5, 6)], 0.5)),
    (A._foreach_norm.Scalar, lambda: ([T(5, 6)], 2.0)),
]  # fmt: skip
