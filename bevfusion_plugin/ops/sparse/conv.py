"""Submanifold and strided sparse 3D convolution that trains on a CPU and on a GPU.

Letters: V sites before, W sites after the convolution, K = kx * ky * kz kernel offsets, I input and O output
channels. Parameter names and the KRSC weight layout (O, kx, ky, kz, I) are those of spconv 2.

Source: Graham et al., CVPR 2018 (submanifold convolution); Yan et al., SECOND, Sensors 2018 (gather, multiply,
scatter by kernel offset). Checked against dense ``conv3d`` and against spconv 2.3.8 on one thread.
"""
from __future__ import annotations

import functools
import logging
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bevfusion_plugin.ops.sparse.backend import product_dtype, spconv_convolution, takes_spconv
from bevfusion_plugin.ops.sparse.pairs import Pairs, strided_pairs, subm_pairs
from bevfusion_plugin.ops.sparse.tensor import SparseTensor

logger = logging.getLogger(__name__)


def sparse_convolution(features: Tensor, weight: Tensor, pairs: Pairs, n_outputs: int) -> Tensor:
    """Features (n_outputs, O) after a sparse convolution.

    Each kernel offset gathers its input rows, multiplies them by its (I, O) matrix and adds the result to its
    output rows; the gathered rows are built again in the backward pass instead of being kept. Under autocast the
    products take the low precision, their sum over the offsets is float32.

    Args:
        features: (V, I).
        weight: (O, kx, ky, kz, I).
        pairs: Input and output rows of each kernel offset, see ``pairs``.
        n_outputs: W.
    """
    dtype = product_dtype(features)
    matrices = weight.to(dtype).flatten(1, 3).permute(1, 2, 0)  # (K, I, O)
    return _GatherMultiplyScatter.apply(features.to(dtype), matrices, pairs, n_outputs)


def weight_to_krsc(weight: Tensor, shape: Sequence[int], version: int | None) -> Tensor:
    """A checkpoint's kernel in the layout (O, kx, ky, kz, I).

    spconv 1 and mmcv save (kx, ky, kz, I, O). The shapes tell the layouts apart, except where all five sizes are
    equal: then a module version of 1 in the checkpoint's metadata means the old layout, and anything else, a
    state dict without metadata included, the present one. Such a kernel (3 channels in, 3 out, kernel 3) does not
    occur in BEVFusion.

    Args:
        weight: The kernel as saved.
        shape: Shape of the module's own weight.
        version: ``version`` of the module in the metadata of the state dict, None without one.

    Returns:
        The kernel, permuted if it is in the old layout; one that fits neither layout is returned as it is.
    """
    shape = tuple(shape)
    saved = tuple(weight.shape)
    if saved == shape[1:] + shape[:1] and (saved != shape or version == 1):
        return weight.permute(4, 0, 1, 2, 3).contiguous()
    return weight


class SparseModule(nn.Module):
    """A module that maps a ``SparseTensor`` to a ``SparseTensor``."""
    _version = 2  # what spconv 2 modules of mmdet3d write into the metadata of a state dict


class SparseSequential(nn.Sequential, SparseModule):
    """Modules in a row: sparse ones take the sparse tensor, all others (norm, activation) its features."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        for module in self:
            x = module(x) if isinstance(module, SparseModule) else x.replace_feature(apply_layer(module, x.features))
        return x


class _SparseConvolution(SparseModule):

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int | Sequence[int],
                 stride: int | Sequence[int], padding: int | Sequence[int], bias: bool) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = _triple(kernel_size, 'kernel_size')
        self.stride = _triple(stride, 'stride')
        self.padding = _triple(padding, 'padding')
        self.weight = nn.Parameter(torch.empty(out_channels, *self.kernel_size, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kaiming uniform with a = sqrt(5), the default of spconv 2 and of ``nn.Conv3d``: U(-b, b) with
        b = 1 / sqrt(fan in). Taken by hand, as ``nn.init`` reads another layout from the shape."""
        bound = 1 / math.sqrt(self.in_channels * math.prod(self.kernel_size))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def extra_repr(self) -> str:
        return (f'{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, '
                f'padding={self.padding}, bias={self.bias is not None}')

    def _add_bias(self, y: SparseTensor) -> SparseTensor:
        return y if self.bias is None else y.replace_feature(y.features + self.bias.to(y.features.dtype))

    def _load_from_state_dict(self, state_dict: dict, prefix: str, local_metadata: dict, *args) -> None:
        key = f'{prefix}weight'
        if key in state_dict:
            state_dict[key] = weight_to_krsc(state_dict[key], self.weight.shape, local_metadata.get('version'))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


class SubMConv3d(_SparseConvolution):
    """Convolution whose output sites are its input sites, with a centred kernel.

    Args:
        in_channels: I.
        out_channels: O.
        kernel_size: One odd size or (kx, ky, kz).
        bias: Whether to add a bias at the active sites.

    Raises:
        ValueError: If a kernel size is even: it has no centre.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int | Sequence[int],
                 bias: bool = True) -> None:
        kernel_size = _triple(kernel_size, 'kernel_size')
        if any(size % 2 == 0 for size in kernel_size):
            raise ValueError(f'kernel_size of a submanifold convolution must be odd, got {kernel_size}')
        super().__init__(in_channels, out_channels, kernel_size, 1, [size // 2 for size in kernel_size], bias)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(V, O) on the sites of ``x`` (V, I)."""
        if takes_spconv(x.features, self.kernel_size):
            return self._add_bias(spconv_convolution(self, x, subm=True))
        key = ('subm', self.kernel_size)
        if key not in x.cache:
            x.cache[key] = subm_pairs(x.indices, x.spatial_shape, self.kernel_size)
        features = sparse_convolution(x.features, self.weight, x.cache[key], len(x.indices))
        return self._add_bias(x.replace_feature(features))


class SparseConv3d(_SparseConvolution):
    """Strided convolution: a site is active if at least one active input lies in its receptive field.

    Args:
        in_channels: I.
        out_channels: O.
        kernel_size: One size or (kx, ky, kz).
        stride: One step or one for each axis.
        padding: One number of zeros or one for each axis.
        bias: Whether to add a bias at the active sites.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int | Sequence[int],
                 stride: int | Sequence[int] = 1, padding: int | Sequence[int] = 0, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(W, O) on the sites that ``x`` (V, I) reaches."""
        if takes_spconv(x.features, self.kernel_size):
            return self._add_bias(spconv_convolution(self, x, subm=False))
        sites, shape, pairs = strided_pairs(x.indices, x.spatial_shape, self.kernel_size, self.stride, self.padding)
        features = sparse_convolution(x.features, self.weight, pairs, len(sites))
        return self._add_bias(SparseTensor(features, sites, shape, x.batch_size))


def apply_layer(layer: nn.Module, features: Tensor) -> Tensor:
    """Features (V, C) after a norm or an activation.

    ``nn.BatchNorm1d`` in training mode has no batch statistics with one site or none: it then normalises with its
    running ones and leaves them as they are, so that a frame without points can be trained on.
    """
    if type(layer) is nn.BatchNorm1d and layer.training and layer.track_running_stats and len(features) < 2:
        _warn_few_sites()
        return F.batch_norm(features, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=layer.eps)
    return layer(features)


@functools.lru_cache(maxsize=None)  # once is enough
def _warn_few_sites() -> None:
    logger.warning('a batch has fewer than 2 active voxels: BatchNorm uses its running statistics for it')


def _triple(value: int | Sequence[int], name: str) -> tuple[int, int, int]:
    values = tuple(value) if isinstance(value, Sequence) else (value, ) * 3
    if len(values) != 3 or not all(isinstance(v, int) for v in values):
        raise ValueError(f'{name} must be an int or 3 of them (x, y, z), got {value!r}')
    return values


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
