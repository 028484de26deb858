"""A module with spconv's interface that computes with our torch code, and the ways in which one can be wrong."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import torch
from torch import Tensor, nn

from bevfusion_plugin.ops.sparse.tensor import SparseTensor
from bevfusion_plugin.ops.sparse.torch_convolution import torch_convolution

WRONG = {  # what a package makes of the weight
    'another layout': lambda weight: weight.transpose(0, 4),
    'a flipped kernel': lambda weight: weight.flip(1),
    'a lost offset': lambda weight: torch.cat([torch.zeros_like(weight[:, :1]), weight[:, 1:]], dim=1),
    'NaN': lambda weight: weight * torch.nan,
    'half the gradient': lambda weight: (weight + weight.detach()) / 2,
}


def pretended_spconv(name: str = 'spconv.pytorch', change: Callable[[Tensor], Tensor] = lambda weight: weight) -> ModuleType:
    """A module called ``name``; like spconv's, its convolutions compute no gradient in eval mode, refuse an empty input,
    and share pairs by their key, of which those found in eval mode serve no training."""

    class Convolution(nn.Module):
        subm = False

        def __init__(self, in_channels, out_channels, kernel_size, stride, padding, bias, indice_key):
            super().__init__()
            assert not bias
            self.weight = nn.Parameter(torch.empty(out_channels, *kernel_size, in_channels))
            self.settings, self.indice_key = (stride, padding, self.subm), indice_key

        def forward(self, x):
            if len(x.features) == 0:
                raise ValueError('no points')
            pairs = dict(x.indice_dict)
            if self.training and pairs.get(self.indice_key) == 'without backward':
                raise AssertionError('these pairs serve no backward pass')
            pairs[self.indice_key] = 'with backward' if self.training else 'without backward'
            with torch.set_grad_enabled(self.training):
                sites = SparseTensor(x.features, x.indices, x.spatial_shape, x.batch_size)
                y = torch_convolution(sites, change(self.weight), *self.settings)
            return SimpleNamespace(features=y.features, indices=y.indices, spatial_shape=list(y.spatial_shape), indice_dict=pairs)

    module = ModuleType(name)
    module.SparseConv3d = type('SparseConv3d', (Convolution,), {})
    module.SubMConv3d = type('SubMConv3d', (Convolution,), dict(subm=True))
    module.SparseConvTensor = _sparse_conv_tensor
    return module


def _sparse_conv_tensor(features, indices, spatial_shape, batch_size, indice_dict=None):
    assert features.is_contiguous() and indices.is_contiguous() and indices.dtype == torch.int32
    return SimpleNamespace(
        features=features, indices=indices, spatial_shape=spatial_shape, batch_size=batch_size, indice_dict=indice_dict or {}
    )
