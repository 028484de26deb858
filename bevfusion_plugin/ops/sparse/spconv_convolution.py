"""Sparse 3D convolution by a package with spconv's interface: spconv 2 or spconv-triton, which has copied it.

Letters: V sites before, W sites after the convolution, I input and O output channels. The weight layout of both
packages is ours, KRSC: (O, kx, ky, kz, I).

Source: spconv 2.3.8 and spconv-triton 1.0.0 (Apache-2.0 both).
"""

from __future__ import annotations

import functools
from types import ModuleType

import torch
from torch import Tensor, nn

from bevfusion_plugin.ops.sparse.tensor import SparseTensor


def spconv_convolution(
    spconv: ModuleType, x: SparseTensor, weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...], subm: bool
) -> SparseTensor:
    """What ``torch_convolution`` gives, sites in another order where they are new ones.

    Neither package takes an empty input, and both read the weight of a 1 x 1 x 1 kernel in another layout.

    Args:
        spconv: ``spconv.pytorch`` or ``spconv_triton.pytorch``.
        x: Features float32 or float16; its cache keeps the package's pairs.
        weight: (O, kx, ky, kz, I) in the dtype of the features.
        stride: Step along each axis; not asked for where ``subm``.
        padding: Zeros around the grid along each axis; not asked for where ``subm``.
        subm: Whether the output sites are the input sites, with a centred kernel.
    """
    grad = torch.is_grad_enabled()
    module = _stateless_module(spconv, weight.shape[4], weight.shape[0], tuple(weight.shape[1:4]), stride, padding, subm)
    module.train(grad)  # in eval mode they compute no gradient
    key = (spconv.__name__, grad)  # pairs found without gradients lack what a backward pass needs
    sites = spconv.SparseConvTensor(  # spconv's kernels read memory as it lies
        x.features.contiguous(), x.indices.contiguous(), list(x.spatial_shape), x.batch_size, indice_dict=x.cache.get(key)
    )
    # Both start their kernels on the current device; autograd makes the features' device the current one by itself.
    with torch.cuda.device_of(x.features), torch.autocast(x.features.device.type, enabled=False):
        y = torch.func.functional_call(module, {'weight': weight}, (sites,))
    if subm:
        x.cache[key] = y.indice_dict
        return x.replace_feature(y.features)
    return SparseTensor(y.features, y.indices, y.spatial_shape, x.batch_size)


@functools.cache
def _stateless_module(
    spconv: ModuleType,
    in_channels: int,
    out_channels: int,
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    subm: bool,
) -> nn.Module:
    """A module without memory of its own; the key makes the convolutions on one set of sites share pairs."""
    kind = spconv.SubMConv3d if subm else spconv.SparseConv3d
    with torch.device('meta'):
        return kind(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            bias=False,
            indice_key=f'subm{kernel_size}' if subm else None,
        )
