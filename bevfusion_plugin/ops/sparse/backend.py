"""What computes a sparse convolution: spconv 2 on CUDA where it is installed, else our own torch code.

The parameters are always those of our modules. spconv is not used on a CPU: its kernels race with more than one
thread, and its backward needs CUDA.
"""
from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from bevfusion_plugin.ops.sparse.tensor import SparseTensor


@functools.lru_cache(maxsize=None)
def sparse_backend(device_type: str) -> tuple[str, str]:
    """Name of the backend that sparse convolutions take on a type of device ('cpu', 'cuda'), and why."""
    if device_type != 'cuda':
        return 'torch', f'spconv trains on CUDA only, and the features are on {device_type}'
    try:
        import spconv.pytorch  # noqa: F401
    except ImportError as error:
        return 'torch', (f'spconv 2 cannot be imported ({error}); the wheel for your CUDA, '
                         'such as spconv-cu120, makes them faster')
    return 'spconv', f'spconv {spconv.__version__} is installed'


def product_dtype(features: Tensor) -> torch.dtype:
    """Dtype of a matrix product of these features: under autocast the low one. Asked of a product, since the
    question itself is put differently in different versions of PyTorch."""
    one = features.new_ones(1, 1)
    return (one @ one).dtype


def takes_spconv(features: Tensor, kernel_size: tuple[int, int, int]) -> bool:
    """Whether spconv computes this convolution.

    It has no float64, refuses an empty input, and reads the weight of a 1 x 1 x 1 kernel in another layout.
    """
    return (sparse_backend(features.device.type)[0] == 'spconv' and features.dtype != torch.float64
            and kernel_size != (1, 1, 1) and len(features) > 0)


def spconv_convolution(conv: nn.Module, x: SparseTensor, subm: bool) -> SparseTensor:
    """Result of our ``SubMConv3d`` or ``SparseConv3d`` without its bias, as computed by spconv.

    Under autocast to float16 it runs in float16, else in float32: spconv has no kernels for bfloat16.
    """
    import spconv.pytorch as spconv
    dtype = torch.float16 if product_dtype(x.features) == torch.float16 else torch.float32
    module = _stateless_module(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, subm)
    module.train(torch.is_grad_enabled())  # in eval mode spconv computes no gradient
    sites = spconv.SparseConvTensor(  # its kernels read memory as it lies
        x.features.to(dtype).contiguous(), x.indices.contiguous(), list(x.spatial_shape), x.batch_size,
        indice_dict=x.cache.get('spconv'))
    with torch.autocast(x.features.device.type, enabled=False):
        y = torch.func.functional_call(module, {'weight': conv.weight.to(dtype)}, (sites, ))
    if subm:
        x.cache['spconv'] = y.indice_dict
        return x.replace_feature(y.features)
    return SparseTensor(y.features, y.indices, y.spatial_shape, x.batch_size)


@functools.lru_cache(maxsize=None)
def _stateless_module(in_channels: int, out_channels: int, kernel_size: tuple[int, ...], stride: tuple[int, ...],
                      padding: tuple[int, ...], subm: bool) -> nn.Module:
    """A spconv module without memory of its own; the key makes the convolutions on one set of sites share pairs."""
    import spconv.pytorch as spconv
    kind = spconv.SubMConv3d if subm else spconv.SparseConv3d
    with torch.device('meta'):
        return kind(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=False,
                    indice_key=f'subm{kernel_size}' if subm else None)
