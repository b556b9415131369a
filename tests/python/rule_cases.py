"""One row for each op that has a rule: calls of it, small enough to be run in parts.

A row is (op, arguments); `T(...)` makes a float64 tensor. Sizes that do not divide by 2, 3 or 4 are on purpose.
Rows of what is generated from broadcasting (pointwise ops, lists of them) are generated too, from their schemas.
"""

from __future__ import annotations

import torch
from moai import _C
from rule_arguments import (
    EXPAND,
    GROUPED,
    PERMUTE,
    RESHAPE,
    RMS_NORM,
    RMS_NORM_BACKWARD,
    SLICE,
    A,
    I,
    P,
    T,
    attention,
    attention_forward,
    avg_pool_backward,
    batch_norm,
    batch_norm_backward,
    conv,
    conv_backward,
    ends,
    group_norm_backward,
    max_pool_backward,
    nll2d_backward,
    nll_backward,
    one_layer_norm,
    one_rms_norm,
)

# Images, and how windows are slid over them, so that parts are uneven, smaller than their halo, see nothing but
# padding, or leave places over that no window sees.
WINDOWS = [
    ((1, 2, 11, 4), {"filters": (3, 2, 3, 3), "padding": 1}),
    ((1, 2, 11, 4), {"filters": (3, 2, 3, 3), "stride": 2, "padding": 1}),
    ((1, 2, 13, 3), {"filters": (2, 2, 2, 1), "stride": 3}),
    ((1, 2, 13, 3), {"filters": (2, 2, 3, 1), "padding": 2, "dilation": 2}),
    ((1, 2, 6, 3), {"filters": (2, 2, 7, 1), "padding": 3}),
    ((1, 2, 4, 3), {"filters": (2, 2, 1, 1), "padding": 4}),
    ((1, 2, 9, 3), {"filters": (2, 2, 5, 1)}),
    ((1, 2, 12, 4), {"filters": (2, 2, 4, 4), "stride": 4}),
    ((2, 2, 10), {"filters": (4, 1, 3), "padding": 1, "groups": 2}),
    ((1, 2, 7, 3, 4), {"filters": (2, 2, 3, 2, 2), "padding": 1, "bias": False}),
]

# window, stride, padding, dilation, whether sizes are rounded up
MAX_POOLS = [
    ((1, 2, 8, 6), ([2, 2], [2, 2], [0, 0], [1, 1], False)),
    ((1, 2, 11, 5), ([3, 3], [2, 2], [1, 1], [1, 1], False)),
    ((1, 2, 10, 4), ([3, 2], [2, 2], [0, 0], [1, 1], True)),
    ((2, 9, 4), ([3], [], [1], [2], False)),
    ((1, 2, 1, 9), ([1, 3], [1, 1], [0, 1], [1, 1], False)),
]
# window, stride, padding, whether sizes are rounded up, whether padding counts, divisor
AVG_POOLS = [
    ((1, 2, 8, 6), ([2, 2], [2, 2], [0, 0], False, True, None)),
    ((1, 2, 11, 5), ([3, 3], [2, 2], [1, 1], False, True, None)),
    ((1, 2, 11, 7), ([3, 3], [], [1, 0], False, False, None)),
    ((1, 2, 10, 4), ([3, 2], [2, 2], [0, 0], True, True, None)),
    ((1, 2, 10, 4), ([3, 2], [2, 2], [1, 0], True, False, 5)),
    ((2, 9, 4), ([3], [1], [1], False, True, None)),
]

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
    (GROUPED, lambda: (T(9, 6), T(5, 6, 7), ends(2, 2, 4, 7, 9))),
    (GROUPED, lambda: (T(5, 4, 6), T(6, 9), ends(2, 2, 4, 7, 9))),
    (GROUPED, lambda: (T(4, 9), T(9, 7), ends(2, 2, 4, 7, 9))),
    (GROUPED, lambda: (T(9, 6), T(5, 7, 6).transpose(1, 2), ends(0, 3, 3, 5, 8))),
    (GROUPED, lambda: (T(5, 4, 6), T(9, 6).t(), ends(1, 2, 4, 6, 7))),
    (GROUPED, lambda: (T(9, 4).t(), T(9, 7), ends(1, 2, 2, 6, 8))),
    (GROUPED, lambda: (T(5, 4, 6), T(5, 6, 7))),
    # Normalisation
    (A.native_layer_norm.default, lambda: (T(3, 5, 6), [6], T(6), T(6), 1e-5)),
    (A.native_layer_norm.default, lambda: (T(3, 5, 6), [5, 6], None, None, 1e-5)),
    (A.native_layer_norm_backward.default, one_layer_norm),
    (RMS_NORM, lambda: (T(3, 5, 6), [6], T(6), 1e-5)),
    (RMS_NORM_BACKWARD, one_rms_norm),
    (A._native_batch_norm_legit.default, lambda: batch_norm(True)),
    (A._native_batch_norm_legit_no_training.default, lambda: (*batch_norm(False)[:5], 0.1, 1e-5)),
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
    (A.any.default, lambda: (T(5, 6, dtype=torch.bool),)),
    (A.any.dims, lambda: (T(3, 5, 6, dtype=torch.bool), [0, 2])),
    (A.all.dim, lambda: (T(5, 6, dtype=torch.bool), 1)),
    (A.all.dims, lambda: (T(3, 5, 6, dtype=torch.bool), [0, 2], True)),
    (A.any.dim, lambda: (T(5, 6, dtype=torch.bool), 1)),
    (A.all.default, lambda: (T(5, 6, dtype=torch.bool),)),
    (A.max.dim, lambda: (T(3, 5, 6), 1)),
    (A.min.dim, lambda: (T(3, 5, 6), 0, True)),
    (A.argmax.default, lambda: (T(3, 5, 6), -1)),
    (A.argmin.default, lambda: (T(3, 5, 6), 1, True)),
    (A.logsumexp.default, lambda: (T(3, 5, 6), [1])),
    (A.var_mean.correction, lambda: (T(3, 5, 6), [1])),
    (A.std.correction, lambda: (T(3, 5, 6), [0, 1])),
    (A.var.correction, lambda: (T(3, 5, 6), [1])),
    (A.linalg_vector_norm.default, lambda: (T(5, 6), 2.0)),
    (A.linalg_vector_norm.default, lambda: (T(5, 6), 1.0, [0])),
    (A.linalg_vector_norm.default, lambda: (T(5, 6), float("inf"), [1], True)),
    (A.norm.Scalar, lambda: (T(5, 6), 2.0)),
    (A.norm.ScalarOpt_dim, lambda: (T(5, 6), None, [1])),
    (A.norm.ScalarOpt_dim, lambda: (T(3, 5, 6), 2.0, [0, 1], True)),
    (A.cumsum.default, lambda: (T(3, 5, 6), 1)),
    (A.cumprod.default, lambda: (T(3, 5, 6), -1)),
    (A.flip.default, lambda: (T(5, 6), [0])),
    (A.flip.default, lambda: (T(3, 5, 6), [-1, 0])),
    (A.roll.default, lambda: (T(3, 5, 6, 2), [-2, 1], [1, -2])),
    (A.roll.default, lambda: (T(5, 6), [4])),
    (A.topk.default, lambda: (T(5, 6), 2)),
    (A.topk.default, lambda: (T(3, 5, 6), 2, 1)),
    (A.sort.default, lambda: (T(5, 6), 0)),
    (A.sort.stable, lambda: (T(5, 6), True, 0)),
    (A.argsort.default, lambda: (T(5, 6), 0)),
    (A.histc.default, lambda: (T(7),)),
    (A.histc.default, lambda: (T(7, 3), 5, -1, 2)),
    (A.bincount.default, lambda: (I(4, 7),)),
    (A.triu.default, lambda: (T(2, 5, 6), 1)),
    (A.tril.default, lambda: (T(2, 5, 6), 1)),
    (A._softmax.default, lambda: (T(3, 5, 6), 1, False)),
    (A._log_softmax.default, lambda: (T(5, 6), 1, False)),
    (A._softmax_backward_data.default, lambda: (T(5, 6), T(5, 6).softmax(1), 1, torch.float64)),
    (A._log_softmax_backward_data.default, lambda: (T(5, 6), T(5, 6).log_softmax(1), 1, torch.float64)),
    (A._safe_softmax.default, lambda: (T(5, 6), 1)),
    # Attention
    *(
        (op, lambda a=a, make=make: make(*a))
        for op, make in (
            (A._scaled_dot_product_flash_attention_for_cpu.default, attention_forward),
            (A._scaled_dot_product_flash_attention_for_cpu_backward.default, attention),
        )
        for a in (
            (False,), (True,), (False, None, 2), (True, None, 2), (False, T(5, 7)), (False, T(2, 4, 5, 7)),
            (False, T(2, 1, 1, 7), 2), (False, T(1, 4, 5, 7), 2),
        )
    ),
    # Losses
    *((A.nll_loss_forward.default, lambda r=r: (T(5, 7).log_softmax(1), I(7, 5), None, r, 2)) for r in range(3)),
    *((A.nll_loss_forward.default, lambda r=r: (T(5, 7).log_softmax(1), I(7, 5), P(7), r, 2)) for r in range(3)),
    *((A.nll_loss_backward.default, lambda r=r: nll_backward(r)) for r in range(3)),
    *((A.nll_loss2d_forward.default, lambda r=r: (T(3, 7, 4, 2), I(7, 3, 4, 2), None, r, 2)) for r in range(3)),
    *((A.nll_loss2d_backward.default, lambda r=r: nll2d_backward(r)) for r in range(3)),
    (A.nll_loss_backward.default, lambda: nll_backward(1, P(7))),
    *((A.soft_margin_loss.default, lambda r=r: (T(5, 6), T(5, 6).sign(), r)) for r in range(3)),
    *((A.huber_loss.default, lambda r=r: (T(5, 6), T(5, 6), r)) for r in range(3)),
    *((A.smooth_l1_loss.default, lambda r=r: (T(5, 6), T(5, 6), r)) for r in range(3)),
    *((A.huber_loss_backward.default, lambda r=r: (T(5, 6) if r == 0 else T(), T(5, 6), T(5, 6), r, 1.0)) for r in range(3)),
    *((A.smooth_l1_loss_backward.default, lambda r=r: (T(5, 6) if r == 0 else T(), T(5, 6), T(5, 6), r, 1.0)) for r in range(3)),
    *((A.binary_cross_entropy.default, lambda r=r: (P(5, 6) * 0.8, P(5, 6) * 0.8, None, r)) for r in range(3)),
    *((A.mse_loss.default, lambda r=r: (T(5, 6), T(5, 6), r)) for r in range(3)),
    *((A.mse_loss_backward.default, lambda r=r: (T(5, 6) if r == 0 else T(), T(5, 6), T(5, 6), r)) for r in range(3)),
    *((A.soft_margin_loss_backward.default, lambda r=r: (T(5, 6) if r == 0 else T(), T(5, 6), T(5, 6).sign(), r)) for r in range(3)),
    *(
        (A.binary_cross_entropy_backward.default, lambda r=r, w=w: (T(5, 6) if r == 0 else T(), P(5, 6) * 0.8, P(5, 6) * 0.8, w, r))
        for r in range(3)
        for w in (None, P(5, 6))
    ),
    (A.binary_cross_entropy_with_logits.default, lambda: (T(5, 6), P(5, 6), None, None, 1)),
    # Indexing
    (A.embedding.default, lambda: (T(9, 6), I(9, 3, 5))),
    (A.embedding_dense_backward.default, lambda: (T(3, 5, 6), I(9, 3, 5), 9, -1, False)),
    (A.embedding_dense_backward.default, lambda: (T(3, 5, 6), I(4, 3, 5), 9, -1, True)),
    (A.index_select.default, lambda: (T(5, 6), 1, I(6, 7))),
    (A.index_select.default, lambda: (T(5, 6), 1, I(6))),
    (A.index_select.default, lambda: (T(), 0, I(1, 1))),
    (A.index_add.default, lambda: (T(5, 6), 0, I(5, 3), T(3, 6))),
    (A.index_add.default, lambda: (T(5, 6), 1, I(6, 7), T(5, 7))),
    (A.gather.default, lambda: (T(5, 6), 1, I(6, 5, 3))),
    (A.gather.default, lambda: (T(5), 0, I(5, 0, 2))),
    (A.scatter_add.default, lambda: (T(5, 6), 1, I(6, 5, 3), T(5, 3))),
    (A.scatter.src, lambda: (T(5, 6), 0, I(5, 2, 6).argsort(0), T(2, 6))),
    (A._unsafe_index.Tensor, lambda: (T(5, 6), [I(5, 3)])),
    (A._unsafe_index_put.default, lambda: (T(5, 6), [I(5, 3)], T(3, 6), True)),
    (A._index_put_impl.default, lambda: (T(5, 6), [None, I(6, 3)], T(5, 3), True, False)),
    (A.scatter.value, lambda: (T(5, 6), 0, I(5, 2, 6), 3.0)),
    (A.index.Tensor, lambda: (T(5, 6), [I(5, 3)])),
    (A.index.Tensor, lambda: (T(3, 5, 6), [None, I(5, 2, 4)])),
    (A.index.Tensor, lambda: (T(5, 6, 4), [I(5, 3), I(6, 3)])),
    (A.index_put.default, lambda: (T(5, 6), [I(5, 3)], T(3, 6), True)),
    (A.index_put.default, lambda: (T(5, 6, 4), [I(5, 7), I(6, 7)], T(7, 4), True)),
    (A.index_put.default, lambda: (T(5, 6), [I(5, 4, 3)], T(4, 3, 6), True)),
    (A.index_put.default, lambda: (T(5, 6), [I(5, 7)], T(6), True)),
    (A.index_put.default, lambda: (I(9, 5, 6), [I(5, 7)], I(9, 7, 6), True)),
    (A.index_put.default, lambda: (T(5, 6, dtype=torch.bool), [I(5, 7)], T(7, 6, dtype=torch.bool), True)),
    (A.index_put.default, lambda: (T(5, 6, 4), [T(5, 6, dtype=torch.bool)], T(4))),
    (A.index_put.default, lambda: (T(5, 6), [T(5, dtype=torch.bool)], T(6))),
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
    *(
        row
        for how in WINDOWS
        for row in (
            (A.convolution.default, lambda how=how: conv(*how[0], **how[1])),
            (A.convolution_backward.default, lambda how=how: conv_backward(*how[0], **how[1])),
        )
    ),
    (A.convolution_backward.default, lambda: conv_backward(1, 2, 9, 4, filters=(3, 2, 3, 2), padding=1, mask=(False, True, True))),
    (A.convolution_backward.default, lambda: conv_backward(1, 2, 9, 4, filters=(3, 2, 3, 2), padding=1, mask=(True, False, False))),
    (A.max_pool2d_with_indices.default, lambda: (T(3, 4, 8, 6), [2, 2])),
    *(
        row
        for how in MAX_POOLS
        for row in (
            (A.max_pool2d_with_indices.default, lambda how=how: (T(*how[0]), *how[1])),
            (A.max_pool2d_with_indices_backward.default, lambda how=how: max_pool_backward(T(*how[0]), *how[1])),
        )
    ),
    *(
        row
        for how in AVG_POOLS
        for row in (
            (A.avg_pool2d.default, lambda how=how: (T(*how[0]), *how[1])),
            (A.avg_pool2d_backward.default, lambda how=how: avg_pool_backward(T(*how[0]), *how[1])),
        )
    ),
    # Nothing is larger than what lies beyond the edges.
    (A.max_pool2d_with_indices.default, lambda: (T(1, 2, 7, 5).fill_(-torch.inf), [3, 3], [1, 1], [1, 1], [1, 1], False)),
    (A.max_pool2d_with_indices.default, lambda: (T(1, 2, 9, 5).fill_(-torch.inf), [3, 1], [1, 1], [1, 0], [3, 1], False)),
    (A.max_pool2d_with_indices.default, lambda: (I(9, 1, 2, 7, 5), [3, 3], [1, 1], [1, 1], [1, 1], False)),
    (A._adaptive_avg_pool2d_backward.default, lambda: (T(3, 5, 1, 1), T(3, 5, 8, 6))),
    (A.adaptive_max_pool2d.default, lambda: (T(3, 5, 8, 6), [2, 2])),
    (A.upsample_nearest2d.default, lambda: (T(3, 5, 4, 3), [8, 6])),
    (A.upsample_bilinear2d.default, lambda: (T(3, 5, 4, 3), [8, 6], False)),
    (A.upsample_bicubic2d.default, lambda: (T(3, 5, 4, 3), [8, 6], False)),
    (A.upsample_nearest2d_backward.default, lambda: (T(3, 5, 8, 6), [8, 6], [3, 5, 4, 3])),
    (A.upsample_bilinear2d_backward.default, lambda: (T(3, 5, 8, 6), [8, 6], [3, 5, 4, 3], False)),
    (A.upsample_bicubic2d_backward.default, lambda: (T(3, 5, 8, 6), [8, 6], [3, 5, 4, 3], False)),
    (A.avg_pool2d.default, lambda: (T(3, 4, 8, 6), [2, 2])),
    (A._adaptive_avg_pool2d.default, lambda: (T(3, 4, 8, 6), [1, 1])),
    # Making tensors
    (A.full.default, lambda: ([5, 6], 2.0)),
    (A.zeros.default, lambda: ([5, 6],)),
    (A.ones.default, lambda: ([5, 6],)),
    (A.scalar_tensor.default, lambda: (2.0,)),
    (A.arange.default, lambda: (7,)),
    (A.arange.start, lambda: (2, 9)),
    (A.arange.start_step, lambda: (2, 16, 2)),
    (A.linspace.default, lambda: (0.0, 1.0, 7)),
    (A.eye.m, lambda: (5, 6)),
    (A.eye.default, lambda: (5,)),
    # Views and what stands beside them
    (A._unsafe_view.default, lambda: (T(6, 4), [2, 3, 4])),
    (A.reshape.default, lambda: (T(2, 3, 4), [6, 4])),
    (RESHAPE, lambda: (T(2, 3, 4), [6, 2, 2])),
    (PERMUTE, lambda: (T(3, 5, 4), [2, 0, 1])),
    (EXPAND, lambda: (T(1, 5, 1, 4), [3, 5, 6, 4])),
    (SLICE, lambda: (T(5, 6), 1, 3, 3, 1)),
    (SLICE, lambda: (T(5, 7, 3), 1, 1, 3, 2)),
    (SLICE, lambda: (T(5, 7), 0, 0, 5, 1)),
    (SLICE, lambda: (T(1, 6), 0, 0, 0, 1)),
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
    (A.repeat.default, lambda: (T(5, 6), [2, 0])),
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
    (A._foreach_norm.Scalar, lambda: ([T(5, 6)], 1.0)),
]  # fmt: skip


# --- Rows made from schemas -----------------------------------------------------------------------


def overload(name: str) -> torch._ops.OpOverload:
    packet, _, which = name.partition(".")
    return getattr(getattr(A, packet), which or "default")


def between(*sizes: int) -> torch.Tensor:
    """Where every function of one number is defined: in (0.1, 0.9)."""
    return torch.rand(sizes, dtype=torch.float64) * 0.8 + 0.1


SPECIAL = {
    "masked_fill.Tensor": lambda: (between(5, 6), T(5, 6, dtype=torch.bool), between()),
    "fill.Tensor": lambda: (between(5, 6), between()),
    "clamp.Tensor": lambda: (between(5, 6), between(6) - 0.3, between(5, 1)),
    "_foreach_addcdiv.Tensor": lambda: ([between(5, 6)], [between(5, 6)], [between(5, 6)], between(1)),
    "_foreach_addcmul.Tensor": lambda: ([between(5, 6)], [between(5, 6)], [between(5, 6)], between(1)),
}  # fmt: skip


def from_schema(name: str) -> tuple:
    """Arguments for what has no default. The last of several tensors broadcasts, but for gradients and lists."""
    if name in SPECIAL:
        return SPECIAL[name]()
    arguments = list(overload(name)._schema.arguments)
    while arguments and arguments[-1].has_default_value():
        arguments.pop()
    tensors = [a for a in arguments if str(a.type) == "Tensor"]
    whole_numbers = name.startswith("bitwise_")
    args: list[object] = []
    for argument in arguments:
        kind = str(argument.type)
        if argument.name == "state_steps":
            args.append([torch.tensor(3.0)])
        elif argument.name in ("max_exp_avg_sqs",):
            args.append([])
        elif argument.has_default_value():
            args.append(argument.default_value)
        elif kind == "Tensor":
            last = argument is tensors[-1] and len(tensors) > 1 and "_backward" not in name
            sizes = () if name.startswith(("_foreach_", "_fused_")) else (6,) if last else (5, 6)
            if argument.name in ("condition", "mask"):
                args.append(T(*sizes, dtype=torch.bool))
            else:
                args.append(I(8, *sizes) if whole_numbers else between(*sizes))
        elif kind == "List[Tensor]":
            args.append([between(5, 6)])
        elif kind == "List[number]":
            args.append([0.5])
        elif kind == "bool":
            args.append(False)
        elif kind == "int":
            args.append(1)
        elif kind in ("number", "float"):
            args.append(3 if whole_numbers else 0.5)
        elif argument.name == "rounding_mode":
            args.append("floor")
        else:
            raise TypeError(f"{name}: no argument is known for {kind} {argument.name}")
    return tuple(args)


ROWED = {str(op).removeprefix("aten.").removesuffix(".default") for op, _ in ROWS}
LISTS = [name for name in _C.ops_with_rules() if name.startswith(("_foreach_", "_fused_"))]
ROWS += [
    (overload(name), lambda name=name: from_schema(name))
    for name in [*_C.pointwise_rules(), *LISTS]
    if name not in ROWED and name not in ("_fused_rms_norm", "_fused_rms_norm_backward")
]
