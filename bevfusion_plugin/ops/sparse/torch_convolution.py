"""Sparse 3D convolution in plain torch: what the other backends are compared with, and what runs where none of them does.

Letters: V sites before, W sites after the convolution, K = kx * ky * kz kernel offsets, I input and O output
channels.

Source: Graham et al., CVPR 2018 (submanifold convolution); Yan et al., SECOND, Sensors 2018 (gather, multiply,
scatter by kernel offset). Checked against dense ``conv3d`` and against spconv 2.3.8 on one thread.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from bevfusion_plugin.ops.sparse.kernel_map import KernelMap, strided_map, subm_map
from bevfusion_plugin.ops.sparse.tensor import SparseTensor

GATHERED_VALUES = 2**26  # at once: 128 MiB in half precision; most convolutions on a sample of nuScenes need no more


def torch_convolution(x: SparseTensor, weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...], subm: bool) -> SparseTensor:
    """(W, O) after a convolution of ``x`` (V, I) without bias, in the dtype of its features.

    Args:
        x: Its cache keeps the map of a submanifold convolution for the next one with this kernel.
        weight: (O, kx, ky, kz, I) in the dtype of the features.
        stride: Step along each axis; not asked for where ``subm``.
        padding: Zeros around the grid along each axis; not asked for where ``subm``.
        subm: Whether the output sites are the input sites, with a centred kernel.
    """
    kernel_size = tuple(weight.shape[1:4])
    if not subm:
        sites, shape, kernel_map = strided_map(x.indices, x.batch_size, x.spatial_shape, kernel_size, stride, padding)
        return SparseTensor(sparse_convolution(x.features, weight, kernel_map), sites, shape, x.batch_size)
    key = ('subm', kernel_size)
    if key not in x.cache:
        x.cache[key] = subm_map(x.indices, x.batch_size, x.spatial_shape, kernel_size)
    return x.replace_feature(sparse_convolution(x.features, weight, x.cache[key]))


def sparse_convolution(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """Features (W, O) after a sparse convolution, in a low precision summed in float32.

    What is gathered for the products is gathered again in the backward pass instead of being kept. A GPU multiplies
    all offsets at once, zeros where there is no neighbour: two kernels in place of three for each offset, always in
    the same order. A CPU gains nothing by few kernels, and leaves the zeros out: with the 8 to 15 neighbours of 27
    that a site of nuScenes has, the other form takes it several times as long (``benchmarks/sparse_conv.py``).

    Args:
        features: (V, I).
        weight: (O, kx, ky, kz, I) in the dtype of the features.
        kernel_map: Which site meets which.
    """
    form = OffsetByOffset if features.device.type == 'cpu' else AllOffsets
    return form.apply(features, weight.flatten(1, 3), kernel_map)


class OffsetByOffset(torch.autograd.Function):
    """(W, O) from features (V, I) and weight (O, K, I): each kernel offset gathers its input rows, multiplies them by its
    matrix and adds the result to its output rows. At the middle offset every site meets itself: nothing to gather.

    The buffers serve all offsets: fresh ones would cost more in page faults than the products take.
    """

    @staticmethod
    def forward(ctx, features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.kernel_map = kernel_map
        pairs, middle = kernel_map.pairs, kernel_map.middle
        first = None if middle is None else _product(features, weight[:, middle].t())
        result = _sums(features, kernel_map.n_outputs, len(weight), first)
        inputs, outputs = _buffers(pairs, features, weight)
        for k, (rows, reached) in pairs.items():
            n = len(rows)
            torch.index_select(features, 0, rows, out=inputs[:n])
            torch.mm(inputs[:n], weight[:, k].t(), out=outputs[:n])
            result.index_add_(0, reached, outputs[:n].to(result.dtype))
        return result.to(features.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor, None]:
        features, weight = ctx.saved_tensors
        pairs, middle = ctx.kernel_map.pairs, ctx.kernel_map.middle
        grad_weight = torch.zeros_like(weight)
        first = None
        if middle is not None:
            grad_weight[:, middle] = _product(grad.t(), features)
            first = _product(grad, weight[:, middle])
        grad_features = _sums(features, features.shape[0], features.shape[1], first) if ctx.needs_input_grad[0] else None
        inputs, outputs = _buffers(pairs, features, weight)
        for k, (rows, reached) in pairs.items():
            n = len(rows)
            torch.index_select(features, 0, rows, out=inputs[:n])
            torch.index_select(grad, 0, reached, out=outputs[:n])
            grad_weight[:, k] = _product(outputs[:n].t(), inputs[:n])
            if grad_features is not None:
                torch.mm(outputs[:n], weight[:, k], out=inputs[:n])
                grad_features.index_add_(0, rows, inputs[:n].to(grad_features.dtype))
        return grad_features if grad_features is None else grad_features.to(features.dtype), grad_weight, None


class AllOffsets(torch.autograd.Function):
    """(W, O) from features (V, I) and weight (O, K, I): the neighbours of each output site in one row of K * I values, one
    product with the weight as a (K * I, O) matrix. The gradient of the features is the same with the roles exchanged.
    """

    @staticmethod
    def forward(ctx, features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.kernel_map = kernel_map
        return _gathered_product(features, kernel_map.inputs_of_outputs, weight.flatten(1).t())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor, None]:
        features, weight = ctx.saved_tensors
        kernel_map = ctx.kernel_map
        grad_features = None
        if ctx.needs_input_grad[0]:
            matrix = weight.transpose(0, 1).flatten(0, 1)  # (K * O, I)
            grad_features = _gathered_product(grad, kernel_map.outputs_of_inputs, matrix)
        parts = [_product(part.t(), gathered) for part, gathered in _gathered(grad, features, kernel_map.inputs_of_outputs)]
        return grad_features, functools.reduce(torch.add, parts).view_as(weight), None


def _gathered_product(source: Tensor, rows: Tensor, matrix: Tensor) -> Tensor:
    """(R, N): for each of ``rows`` (R, K) its K rows of ``source`` (S, C) side by side, times ``matrix`` (K * C, N)."""
    result = source.new_empty(len(rows), matrix.shape[1])
    for part, gathered in _gathered(result, source, rows):
        torch.mm(gathered, matrix, out=part)
    return result


def _gathered(beside: Tensor, source: Tensor, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """A few rows of ``beside`` (R, N) at a time, and for each of them the rows of ``source`` (S, C) that ``rows`` (R, K)
    names, side by side (.., K * C); zeros for the row S."""
    source = F.pad(source, (0, 0, 0, 1))
    width = rows.shape[1] * source.shape[1]
    n = max(1, GATHERED_VALUES // width)
    for part, named in zip(beside.split(n), rows.split(n)):
        yield part, source.index_select(0, named.flatten()).view(len(named), width)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Their matrix product in their dtype, whatever autocast says: it leaves ``out`` alone."""
    return torch.mm(left, right, out=left.new_empty(left.shape[0], right.shape[1]))


def _sums(like: Tensor, rows: int, channels: int, first: Tensor | None) -> Tensor:
    """(rows, channels) of the first terms, in float32 at least: sums over the offsets keep their precision under autocast."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return like.new_zeros(rows, channels, dtype=dtype) if first is None else first.to(dtype)


def _buffers(pairs: Mapping[int, tuple[Tensor, Tensor]], features: Tensor, weight: Tensor) -> list[Tensor]:
    """Room for the input rows and for the output rows of any offset."""
    longest = max((len(rows) for rows, _ in pairs.values()), default=0)
    return [features.new_empty(longest, channels) for channels in (weight.shape[2], weight.shape[0])]
