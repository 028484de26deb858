"""Sparse 3D convolution in plain torch: what the other backends are compared with, and what runs where none of them does.

Letters: V sites before, W sites after the convolution, K = kx * ky * kz kernel offsets, I input and O output
channels.

Source: Graham et al., CVPR 2018 (submanifold convolution); Yan et al., SECOND, Sensors 2018 (gather, multiply,
scatter by kernel offset). Checked against dense ``conv3d`` and against spconv 2.3.8 on one thread.
"""
from __future__ import annotations

import torch
from torch import Tensor

from bevfusion_plugin.ops.sparse.pairs import Pairs, strided_pairs, subm_pairs
from bevfusion_plugin.ops.sparse.tensor import SparseTensor


def torch_convolution(x: SparseTensor, weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...],
                      subm: bool) -> SparseTensor:
    """(W, O) after a convolution of ``x`` (V, I) without bias, in the dtype of its features.

    Args:
        x: Its cache keeps the pairs of a submanifold convolution for the next one with this kernel.
        weight: (O, kx, ky, kz, I) in the dtype of the features.
        stride: Step along each axis; not asked for where ``subm``.
        padding: Zeros around the grid along each axis; not asked for where ``subm``.
        subm: Whether the output sites are the input sites, with a centred kernel.
    """
    kernel_size = tuple(weight.shape[1:4])
    if not subm:
        sites, shape, pairs = strided_pairs(x.indices, x.spatial_shape, kernel_size, stride, padding)
        return SparseTensor(sparse_convolution(x.features, weight, pairs, len(sites)), sites, shape, x.batch_size)
    key = ('subm', kernel_size)
    if key not in x.cache:
        x.cache[key] = subm_pairs(x.indices, x.spatial_shape, kernel_size)
    return x.replace_feature(sparse_convolution(x.features, weight, x.cache[key], len(x.indices)))


def sparse_convolution(features: Tensor, weight: Tensor, pairs: Pairs, n_outputs: int) -> Tensor:
    """Features (n_outputs, O) after a sparse convolution.

    Each kernel offset gathers its input rows, multiplies them by its (I, O) matrix and adds the result to its
    output rows; the gathered rows are built again in the backward pass instead of being kept. In a low precision
    the products are low and their sum over the offsets is float32.

    Args:
        features: (V, I).
        weight: (O, kx, ky, kz, I) in the dtype of the features.
        pairs: Input and output rows of each kernel offset, see ``pairs``.
        n_outputs: W.
    """
    matrices = weight.flatten(1, 3).permute(1, 2, 0)  # (K, I, O)
    return _GatherMultiplyScatter.apply(features, matrices, pairs, n_outputs)


class _GatherMultiplyScatter(torch.autograd.Function):
    """(W, O) from features (V, I), matrices (K, I, O) and K pairs of rows.

    The buffers serve all offsets: fresh ones would cost more in page faults than the products take.
    """

    @staticmethod
    def forward(ctx, features: Tensor, matrices: Tensor, pairs: Pairs, n_outputs: int) -> Tensor:
        ctx.save_for_backward(features, matrices)
        ctx.pairs = pairs
        result = _zero_sums(features, n_outputs, matrices.shape[2])
        inputs, outputs = (_buffer(pairs, features, channels) for channels in matrices.shape[1:])
        for (rows, reached), matrix in zip(pairs, matrices):
            n = len(rows)
            torch.index_select(features, 0, rows, out=inputs[:n])
            torch.mm(inputs[:n], matrix, out=outputs[:n])
            result.index_add_(0, reached, outputs[:n].to(result.dtype))
        return result.to(features.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        features, matrices = ctx.saved_tensors
        grad_features = _zero_sums(features, *features.shape) if ctx.needs_input_grad[0] else None
        grad_matrices = features.new_empty(matrices.shape)
        inputs, outputs = (_buffer(ctx.pairs, features, channels) for channels in matrices.shape[1:])
        for (rows, reached), matrix, grad_matrix in zip(ctx.pairs, matrices, grad_matrices):
            n = len(rows)
            torch.index_select(features, 0, rows, out=inputs[:n])
            torch.index_select(grad, 0, reached, out=outputs[:n])
            torch.mm(inputs[:n].t(), outputs[:n], out=grad_matrix)
            if grad_features is not None:
                torch.mm(outputs[:n], matrix.t(), out=inputs[:n])
                grad_features.index_add_(0, rows, inputs[:n].to(grad_features.dtype))
        return grad_features if grad_features is None else grad_features.to(features.dtype), grad_matrices, None, None


def _zero_sums(like: Tensor, rows: int, channels: int) -> Tensor:
    """(rows, channels) zeros in float32 at least: sums over the offsets keep their precision under autocast."""
    return like.new_zeros(rows, channels, dtype=torch.promote_types(like.dtype, torch.float32))


def _buffer(pairs: Pairs, like: Tensor, channels: int) -> Tensor:
    """Room for the rows of any offset."""
    return like.new_empty(max(len(rows) for rows, _ in pairs), channels)
