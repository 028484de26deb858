"""Submanifold and strided sparse 3D convolution that trains on a CPU and on a GPU.

Letters: V sites before, W sites after the convolution, I input and O output channels. Parameter names and the KRSC
weight layout (O, kx, ky, kz, I) are those of spconv 2. What computes them is chosen in ``backend``.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bevfusion_plugin.ops.sparse.backend import convolution
from bevfusion_plugin.ops.sparse.tensor import SparseTensor

logger = logging.getLogger(__name__)


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
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int],
        padding: int | Sequence[int],
        bias: bool,
    ) -> None:
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
        return (
            f'{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, '
            f'padding={self.padding}, bias={self.bias is not None}'
        )

    def _convolve(self, x: SparseTensor, subm: bool) -> SparseTensor:
        y = convolution(x, self.weight, self.stride, self.padding, subm)
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

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int | Sequence[int], bias: bool = True) -> None:
        kernel_size = _triple(kernel_size, 'kernel_size')
        if any(size % 2 == 0 for size in kernel_size):
            raise ValueError(f'kernel_size of a submanifold convolution must be odd, got {kernel_size}')
        super().__init__(in_channels, out_channels, kernel_size, 1, [size // 2 for size in kernel_size], bias)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(V, O) on the sites of ``x`` (V, I)."""
        return self._convolve(x, subm=True)


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

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(W, O) on the sites that ``x`` (V, I) reaches."""
        return self._convolve(x, subm=False)


def apply_layer(layer: nn.Module, features: Tensor) -> Tensor:
    """Features (V, C) after a norm or an activation.

    ``nn.BatchNorm1d`` in training mode has no batch statistics with one site or none: it then normalises with its
    running ones and leaves them as they are, so that a frame without points can be trained on.
    """
    if type(layer) is nn.BatchNorm1d and layer.training and layer.track_running_stats and len(features) < 2:
        _warn_few_sites()
        return F.batch_norm(features, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=layer.eps)
    return layer(features)


@functools.cache  # once is enough
def _warn_few_sites() -> None:
    logger.warning('a batch has fewer than 2 active voxels: BatchNorm uses its running statistics for it')


def _triple(value: int | Sequence[int], name: str) -> tuple[int, int, int]:
    values = tuple(value) if isinstance(value, Sequence) else (value,) * 3
    if len(values) != 3 or not all(isinstance(v, int) for v in values):
        raise ValueError(f'{name} must be an int or 3 of them (x, y, z), got {value!r}')
    return values
